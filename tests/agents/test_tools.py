"""The calculator is exact and bounded; files of all kinds are read; the search finds what documents say."""

import asyncio
import math
import zipfile
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openpyxl import Workbook

from elmas.agents.gaia.play import OWN
from elmas.agents.tools.calculator import calculate
from elmas.agents.tools.documents import MAX_CHARACTERS, read_document
from elmas.agents.tools.python_sandbox import Confinement, PythonSandbox
from elmas.agents.tools.search import LocalSearch
from elmas.agents.tools.tool import ToolError
from elmas.agents.tools.toolbox import PAGE_CHARACTERS, make_tools
from elmas.agents.tools.units import convert
from elmas.errors import UserError

QUESTIONS, DOCUMENTS = OWN / "questions", OWN / "documents"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", "7"),
        ("0.1 + 0.2", "0.3"),
        ("2 ^ 10", "1024"),
        ("2 ** -2", "0.25"),
        ("1 / 3", "0.333333333333333"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("10 ** 30 + 1", "1000000000000000000000000000001"),
        ("sqrt(144)", "12"),
        ("sqrt(2)", "1.4142135623731"),
        ("4 ** 0.5", "2"),
        ("round(2.5)", "3"),
        ("round(-2.5)", "-3"),
        ("round(134.5144, 1)", "134.5"),
        ("sum([1, 2, 3.5])", "6.5"),
        ("mean(1, 2, 4)", "2.33333333333333"),
        ("max(3, 1) - min(3, 1)", "2"),
        ("comb(49, 6)", "13983816"),
        ("factorial(20)", "2432902008176640000"),
        ("convert(1, 'mi', 'km')", "1.609344"),
        ("convert(100, 'C', 'F')", "212"),
        ("convert(3, week, s) + convert(2, 'day', 's')", "1987200"),
        ("0.000001", "0.000001"),
        ("-1 / 8", "-0.125"),
        ("sin(pi / 2)", "1"),
    ],
)
def test_values(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1 +",
        "1 / 0",
        "9 ** 9 ** 9",
        "2 ** 100000",
        "(2 ** 4000) * (2 ** 4000)",
        "1e999999",
        "1e5000",
        "factorial(1000)",
        "exp(1000)",
        "sqrt(-1)",
        "(-8) ** 0.3",
        "log(0)",
        "1j",
        "True",
        "'a' * 9",
        "[1] * 9",
        "x",
        "__import__('os')",
        "(1).__class__",
        "sqrt",
        "sum(x for x in [1])",
        "lambda: 1",
        "1 if 1 else 2",
        "round(1, 0.5)",
        "round(x=1)",
        "sqrt(1, 2, 3)",
        "convert(1, 'mi', 'kg')",
        "convert(1, 'mi')",
        "min()",
        "mean()",
        "(" * 400 + ")" * 400,
        "-" * 450 + "1",
        "1" * 600,
    ],
)
def test_what_has_no_value_is_an_error(expression: str) -> None:
    if expression == "-" * 450 + "1":
        assert calculate(expression) == "1"
        return
    with pytest.raises(ToolError):
        calculate(expression)


rationals = st.fractions(min_value=-1000, max_value=1000, max_denominator=1000)


@given(rationals, rationals)
def test_rational_arithmetic_is_exact(left: Fraction, right: Fraction) -> None:
    text = f"({left}) * ({right}) + ({left}) - ({right})"
    value = left * right + left - right
    assert math.isclose(float(Fraction(calculate(text))), float(value), rel_tol=1e-14, abs_tol=1e-12)
    assert calculate(f"({text}) - ({value})") == "0"


@given(st.text(max_size=60))
def test_any_text_gives_a_value_or_a_tool_error(text: str) -> None:
    with suppress(ToolError):
        calculate(text)


@given(rationals, st.sampled_from(["mm", "in", "ft", "mi", "nmi"]), st.sampled_from(["cm", "m", "yd", "km"]))
def test_conversions_there_and_back_change_nothing(value: Fraction, source: str, target: str) -> None:
    assert convert(convert(value, source, target), target, source) == value


def test_documents_of_all_kinds_are_read(tmp_path: Path) -> None:
    assert "smithy on Little Mew" in read_document(QUESTIONS / "letter.pdf")
    assert "[page 2]" in read_document(QUESTIONS / "letter.pdf")
    sheet = read_document(QUESTIONS / "stock.xlsx")
    assert "[sheet Suppliers]" in sheet
    assert "S2\tHolm Stores\tOster Holm" in sheet
    assert read_document(QUESTIONS / "ferry.csv").startswith("date,ship,destination,passengers\n")
    (tmp_path / "broken.txt").write_bytes(b"\xef\xbb\xbfgr\xff\xfc")
    assert read_document(tmp_path / "broken.txt") == "gr\ufffd\ufffd"


def test_documents_that_cannot_be_read_are_tool_errors(tmp_path: Path) -> None:
    for name in ("broken.xlsx", "broken.pdf", "program.exe"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
    for name in ("broken.xlsx", "broken.pdf", "program.exe", "missing.txt"):
        with pytest.raises(ToolError, match=name):
            read_document(tmp_path / name)


def test_a_spreadsheet_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Workbook().save(tmp_path / "small.xlsx")
    with zipfile.ZipFile(tmp_path / "small.xlsx", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(1 << 20))
    monkeypatch.setattr("elmas.agents.tools.documents.MAX_UNPACKED_BYTES", 1 << 20)
    with pytest.raises(ToolError, match="unpacks to more"):
        read_document(tmp_path / "small.xlsx")


def test_long_documents_are_cut_and_say_so(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("x" * (MAX_CHARACTERS + 5))
    text = read_document(path)
    assert text.endswith("\n[long.txt is longer; the rest is left out]")
    assert len(text) < MAX_CHARACTERS + 100


@pytest.mark.parametrize(
    ("query", "document"),
    [
        ("Who designed the lighthouse at Tarn Point?", "tarn-point-lighthouse.md"),
        ("engineer Ailsa Brandt born", "ailsa-brandt.md"),
        ("passengers Fulmar", "velden-ferry-company.md"),
        ("jar of honey grams", "skerra-honey.md"),
        ("heights of weather stations", "weather-stations.md"),
    ],
)
def test_the_search_finds_the_document_that_answers(query: str, document: str) -> None:
    hits = asyncio.run(LocalSearch(DOCUMENTS).search(query, 3))
    assert hits[0].address == document
    assert len({hit.address for hit in hits}) == len(hits) <= 3


def test_the_search_finds_nothing_for_words_that_no_document_has() -> None:
    assert asyncio.run(LocalSearch(DOCUMENTS).search("zeppelin", 3)) == []


def test_a_missing_folder_of_documents_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--documents"):
        LocalSearch(tmp_path / "none")


def test_passages_lose_no_word_of_a_long_document(tmp_path: Path) -> None:
    words = [f"{'abcdefghij'[i % 10]}{'klmnopqrst'[i // 10 % 10]}{'uvwxyzabcd'[i // 100]}q" for i in range(900)]
    (tmp_path / "long.txt").write_text("\n\n".join(" ".join(words[i : i + 300]) for i in range(0, 900, 300)))
    search = LocalSearch(tmp_path)
    for word in words[::97]:
        hits = asyncio.run(search.search(word, 1))
        assert word in hits[0].text


def test_only_named_files_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("y" * PAGE_CHARACTERS + "z" * 10)
    tools = make_tools(LocalSearch(DOCUMENTS), {"long.txt": tmp_path / "long.txt"}, [], PythonSandbox())
    read = tools["read"].call
    assert asyncio.run(read("long.txt")) == "y" * PAGE_CHARACTERS + "\n[page 1 of 2; write: long.txt page 2]"
    assert asyncio.run(read(" long.txt  page 2 ")).startswith("z" * 10 + "\n")
    for wanted in ("/etc/passwd", "../long.txt", str(tmp_path / "long.txt"), "", "long.txt page 3", "long.txt page 0"):
        with pytest.raises(ToolError):
            asyncio.run(read(wanted))


def test_a_machine_without_confinement_has_no_python_and_says_so() -> None:
    sandbox = PythonSandbox()
    sandbox._confinement = Confinement(("seccomp",), {"landlock": "Function not implemented"})
    tools = make_tools(LocalSearch(DOCUMENTS), {}, [], sandbox)
    with pytest.raises(ToolError, match=r"Python is not available.*landlock"):
        asyncio.run(tools["python"].call("print(1)"))
