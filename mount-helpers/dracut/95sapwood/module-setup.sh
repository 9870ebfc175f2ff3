#!/bin/bash
# The dracut module: assembles / from a deployment. The daemon that serves /usr stays in the unit that ran the hook, which
# kills no processes (KillMode=process), and so survives the change of root.

check() {
    require_binaries /usr/lib/sapwood/sapwood-prepare-root || return 1
    # Into every initramfs: the package is on machines that boot from it.
    return 0
}

depends() {
    echo rootfs-block
}

installkernel() {
    instmods fuse
}

install() {
    inst_binary /usr/lib/sapwood/sapwood-prepare-root
    inst_multiple -o /etc/sapwood/policy.toml /etc/sapwood/machine.pub /etc/sapwood/keys/*.pub /etc/ssl/certs/ca-certificates.crt
    inst_hook pre-pivot 50 "$moddir/sapwood-pre-pivot.sh"
}
