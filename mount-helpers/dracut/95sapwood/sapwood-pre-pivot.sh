#!/bin/sh
# Assembles / from a deployment, after the physical root was mounted on $NEWROOT.

type getarg > /dev/null 2>&1 || . /lib/dracut-lib.sh

if getarg sapwood= > /dev/null; then
    modprobe -q fuse || true
    /usr/lib/sapwood/sapwood-prepare-root "$NEWROOT" || die "sapwood: the deployment cannot be booted (see above)"
fi
