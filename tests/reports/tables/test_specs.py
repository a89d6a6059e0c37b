"""Which tables there are: their names, columns and rows by method."""

from __future__ import annotations

from open_set_fer.reports.tables.specs import TABLES, WIDE_TABLES, is_variant


def test_ours_plus_is_a_method_of_its_own_and_variants_are_not():
    labels = ["baseline", "ours", "ours-plus", "ours-online", "ours-no-attention"]
    assert [label for label in labels if is_variant(label)] == ["ours-online", "ours-no-attention"]


def test_the_specs_name_the_papers_tables_and_every_method_has_its_column():
    assert [spec.name for spec in TABLES] == [*(f"table{number}" for number in range(1, 6)), "variants"]
    assert all(spec.reference == f"the paper's Table {spec.name[-1]}" for spec in TABLES[:5])
    for label in ("baseline", "ours", "ours-plus", "ours-online", "ours-balanced", "ours-attention-only", "anything"):
        columns = [spec.name for spec in TABLES if spec.is_column(label)]
        assert columns, label
        assert {spec.name for spec in TABLES if spec.is_subject(label)} <= set(columns), label


def test_each_of_the_papers_tables_is_also_laid_out_as_in_the_paper():
    assert [spec.name for spec in WIDE_TABLES] == [f"printed_{spec.name}" for spec in TABLES[:5]]
    assert [spec.reference for spec in WIDE_TABLES] == [spec.reference for spec in TABLES[:5]]
    assert {spec.layout for spec in WIDE_TABLES} == {"wide"}
