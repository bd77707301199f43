"""What decides a run of pw.x or yambo, read from its input; for the replayer and the tests."""

from __future__ import annotations

import re


def fields(pw_input: str) -> dict[str, object]:
    """What decides a run of pw.x: kind, cutoff, bands, and the mesh or the shifted points."""
    get = lambda key: re.search(rf"^\s*{key}\s*=\s*([^,\n]+)", pw_input, re.MULTILINE)[1].strip(" '")  # noqa: E731
    points = pw_input[pw_input.index("K_POINTS") :].split("\n")
    mesh: object = tuple(points[1].split())
    if "crystal" in points[0]:
        mesh = sorted(tuple(round(float(x), 6) for x in line.split()[:3]) for line in points[2:] if line.strip())
    return {"kind": get("calculation"), "ecut": float(get("ecutwfc")), "nbnd": int(get("nbnd")), "k": mesh}


def blocks(yambo_input: str) -> dict[str, list[float]]:
    """The numbers of every setting that decides a response."""
    found = {}
    for name in ("BndsRnXd", "EnRngeXd", "DmRngeXd", "LongDrXd", "QpntsRXd"):
        line = re.search(rf"% *{name}\s*\n(.*)", yambo_input)[1].split("#")[0]
        found[name] = [float(x) for x in re.findall(r"-?\d+\.?\d*", line)]
    for name in ("NGsBlkXd", "ETStpsXd"):
        found[name] = [float(re.search(rf"{name} *= *(\d+)", yambo_input)[1])]
    return found
