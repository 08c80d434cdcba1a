"""`ahead`"""

from modpdb.commands.registry import command


@command("ahead")
def ahead(dbg, arguments):
    """ahead

    x"""
    from modpdb.probes.conversion import find_conversion
    from modpdb.probes.dry_run import dry_run

    frames = [(f, f.f_locals) for f, _ in reversed(dbg.stack)]
    c = find_conversion([h for _, h in frames])
    r = dry_run(c, frames)
    import dataclasses

    dbg.message(
        f"{r.seconds:.2f} exact={r.exact} {r.why} afresh={r.afresh} written={len(r.written)} drop={r.dropped} filt={r.filtered} kv={len(r.metadata)} ten={len(r.tensors)}"
    )
    for m in r.misses:
        dbg.message(str(m))
    for w in r.written[:3]:
        dbg.message(str(dataclasses.replace(w, history=None)))
    dbg.message(str([w for w in r.written if w.inferred or len(w.sources) != 1][:2]))
