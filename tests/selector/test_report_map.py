"""The map of the pool in the report, and alone."""

from __future__ import annotations

import dataclasses

import pytest
from fabricated import N_KEPT, Page, scattered, unpacked

from selector.report import (
    MaterialMap,
    write_map,
)
from selector.report.material_map import map_figures, map_payload
from selector.report.page import render_map, render_page


def test_the_map_shows_every_material_once_by_what_is_known_of_it(record):
    drawn = scattered(record)
    figure = map_figures(drawn)["map"]
    data = {t.legendgroup: t for t in figure.data if t.customdata}
    known = [i for i, p in enumerate(drawn.points) if p["sc_computed"] is not None]
    outside = [i for i, p in enumerate(drawn.points) if p["out_of_domain"] and i not in known]
    assert list(data["SC computed"].customdata) == known
    assert list(data["predicted, out of domain"].customdata) == outside
    assert sorted(i for t in data.values() for i in t.customdata) == list(range(len(drawn.points)))
    assert len({t.marker.symbol for t in data.values()}) == 3
    for trace in data.values():
        for i, x, colour, text in zip(trace.customdata, trace.x, trace.marker.color, trace.hovertext, strict=True):
            p = drawn.points[i]
            assert x == p["x"]
            assert colour == (p["sc_pred"] if p["sc_computed"] is None else p["sc_computed"])
            assert p["formula"] in text and p["material_id"] in text
            assert f"predicted {p['sc_pred']:.3f} [{p['sc_lo']:.3f}, {p['sc_hi']:.3f}]" in text
            assert ("unlike every crystal" in text) == p["out_of_domain"]


def test_computed_spectra_are_not_predicted_a_second_time(record):
    payload = map_payload(scattered(record), set(record.spectra))
    assert not {s["material_id"] for s in payload["predicted"]} & set(record.spectra)
    assert len(payload["predicted"]) == N_KEPT  # the failed one and those left at IPA, less the one without
    (length,) = {len(unpacked(s["ipa_im"])) for s in payload["predicted"]}
    assert payload["predicted"][0]["step_ev"] * (length - 1) == pytest.approx(20.0)


def test_the_map_stands_in_the_report_and_alone(record, tmp_path):
    drawn = scattered(record, note="39 of 50 materials are drawn")
    page = Page(render_page(dataclasses.replace(record, map=drawn)))
    assert {"map", "map-spectra"} <= set(page.payload["figures"])
    write_map(drawn, tmp_path / "sub" / "map.html", "halides", record)
    alone = Page((tmp_path / "sub" / "map.html").read_text(encoding="utf-8"))
    assert set(alone.payload["figures"]) == {"map", "map-spectra"}
    assert {s["material_id"] for s in alone.payload["spectra"]} == set(record.spectra)
    assert "halides" in alone.visible
    for source in (page, alone):
        assert "39 of 50 materials are drawn" in source.visible
        assert len(source.payload["map"]["points"]) == len(drawn.points)
        assert not [a for _, a in source.tags if "src" in a]
    assert Page(render_map(drawn, "files")).payload["spectra"] == []


def test_a_report_without_a_map_says_why_or_nothing(record):
    assert "Map" not in Page(render_page(record)).visible
    page = Page(render_page(dataclasses.replace(record, map=MaterialMap([], "sc-1", note="umap-learn is missing"))))
    assert "umap-learn is missing" in page.visible
    assert "map" not in page.payload["figures"]
