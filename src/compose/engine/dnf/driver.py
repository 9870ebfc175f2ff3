"""Resolves packages by dnf's library, and normalises rpm's database, so that two equal installs give equal bytes. Sapwood calls it with COMMAND and JSON; it answers in JSON on standard output."""

import json
import os
import sqlite3
import struct
import sys


def base(options):
    import dnf

    base = dnf.Base()
    base.conf.read(options["conf"])
    base.conf.installroot = options["root"]
    base.conf.persistdir = options["state"]
    # The library needs a value even if no repository uses $releasever.
    base.conf.substitutions["releasever"] = ""
    base.conf.substitutions.update(options["substitutions"])
    base.read_all_repos()
    enabled = options["repos"]
    for repo in base.repos.all():
        if enabled:
            (repo.enable if repo.id in enabled else repo.disable)()
        if options["offline"]:
            repo._repo.setSyncStrategy(dnf.repo.SYNC_ONLY_CACHE)
    known = {repo.id for repo in base.repos.all()}
    missing = [name for name in enabled if name not in known]
    if missing:
        raise LookupError("no .repo file beside the treefile has " + ", ".join(missing))
    return base


def resolve(options):
    import dnf

    solver = base(options)
    solver.fill_sack(load_system_repo=options["base"])
    # Local files come first: the library adds none once packages are chosen.
    local = solver.add_remote_rpms(options["local"])
    if options["bound"] is not None:
        wanted = solver.sack.query().filterm(empty=True)
        for nevra in options["bound"]:
            found = solver.sack.query().filterm(nevra_strict=nevra)
            if not found:
                return {"error": "lock", "text": "no source has " + nevra}
            wanted = wanted.union(found)
        solver.sack.add_excludes(solver.sack.query().available().difference(wanted))
    for name in options["exclude"]:
        solver.sack.add_excludes(solver.sack.query().available().filterm(name=name))
    for package in local:
        solver.package_install(package, strict=True)
    unknown = []
    specs = [(None, spec) for spec in options["packages"]]
    specs += [(repo, spec) for repo, names in options["repo_packages"] for spec in names]
    for repo, spec in specs:
        try:
            solver.install(spec, reponame=repo, strict=True)
        except dnf.exceptions.MarkingError:
            unknown.append(spec if repo is None else spec + " (in " + repo + ")")
    if unknown:
        return {"error": "unknown", "names": unknown}
    try:
        solver.resolve()
    except dnf.exceptions.DepsolveError as error:
        return {"error": "depsolve", "text": str(error)}
    packages = []
    for package in solver.transaction.install_set if solver.transaction else []:
        kind, digest = package.returnIdSum() if package.reponame != "@commandline" else (None, None)
        epoch = "" if package.epoch in (0, "0", None) else str(package.epoch) + ":"
        packages.append({
            "name": package.name,
            "version": epoch + package.version + "-" + package.release,
            "arch": package.arch,
            "source": package.source_name or package.name,
            "sha256": digest if kind == "sha256" else None,
            "size": package.downloadsize or os.path.getsize(package.localPkg()),
            "file": package.localPkg(),
        })
    return {"packages": packages}


INSTALLTIME, INSTALLTID, INT32 = 1008, 1128, 4


def patched(blob, time):
    """Returns a header whose install time and transaction id are `time`; the signature covers neither."""
    blob = bytearray(blob)
    count, = struct.unpack_from(">I", blob, 0)
    data = 8 + 16 * count
    for index in range(count):
        tag, kind, offset, _ = struct.unpack_from(">IIiI", blob, 8 + 16 * index)
        if tag in (INSTALLTIME, INSTALLTID) and kind == INT32:
            struct.pack_into(">I", blob, data + offset, time)
    return bytes(blob)


def normalise(options):
    """Rewrites the database: install times are replaced, packages are numbered in the order of their names."""
    old = options["database"]
    new = old + ".new"
    source, target = sqlite3.connect(old), sqlite3.connect(new)
    target.execute("PRAGMA journal_mode=OFF")
    schema = source.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type DESC, name")
    own = [(kind, name, sql) for kind, name, sql in schema if not name.startswith("sqlite_")]
    for _, _, sql in own:
        target.execute(sql)
    names = {hnum: str(key) for key, hnum in source.execute("SELECT key, hnum FROM Name")}
    rows = source.execute("SELECT hnum, blob FROM Packages").fetchall()
    packages = [(names.get(hnum, ""), patched(blob, options["time"]), hnum) for hnum, blob in rows]
    numbers = {}
    for number, (_, blob, hnum) in enumerate(sorted(packages), 1):
        numbers[hnum] = number
        target.execute("INSERT INTO Packages (hnum, blob) VALUES (?, ?)", (number, sqlite3.Binary(blob)))
    for _, table, _ in [row for row in own if row[0] == "table" and row[1] != "Packages"]:
        index(source, target, table, numbers, options["time"])
    target.commit()
    target.execute("VACUUM")
    target.close()
    source.close()
    os.replace(new, old)
    return {}


def index(source, target, table, numbers, time):
    """Copies an index table: rows refer to the new numbers and are sorted."""
    columns = [row[1] for row in source.execute('PRAGMA table_info("%s")' % table)]
    moved = []
    for row in source.execute('SELECT * FROM "%s"' % table):
        values = dict(zip(columns, row))
        if "hnum" in values:
            values["hnum"] = numbers.get(values["hnum"], values["hnum"])
        if table == "Installtid":
            is_bytes = isinstance(values["key"], bytes)
            values["key"] = struct.pack("<I", time) if is_bytes else time
        moved.append([values[column] for column in columns])
    moved.sort(key=lambda row: [(str(type(value)), value if value is not None else "") for value in row])
    marks = ",".join("?" for _ in columns)
    target.executemany('INSERT INTO "%s" VALUES (%s)' % (table, marks), moved)


def main():
    command, options = sys.argv[1], json.loads(sys.argv[2])
    try:
        answer = {"resolve": resolve, "normalise": normalise}[command](options)
    except Exception as error:  # Sapwood reports it to the user.
        answer = {"error": "sources", "text": str(error)}
    json.dump(answer, sys.stdout)


main()
