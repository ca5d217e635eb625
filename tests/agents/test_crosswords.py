"""Mini crosswords: boards, the search for words, turning back, scores, and the published format."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Call, ScriptedAsker

from elmas.agents.crosswords.prompts import parse_proposals, parse_verdict
from elmas.agents.crosswords.puzzle import (
    N_CELLS,
    PLACES,
    SAMPLES,
    SIZE,
    Board,
    Puzzle,
    cells_of,
    crossing,
    read_puzzles,
    score,
)
from elmas.agents.crosswords.search import CrosswordsResult, SearchSettings, play
from elmas.agents.model import Answer
from elmas.errors import UserError

PUZZLES = read_puzzles(SAMPLES)

WORDS = """\
start three roofs asset peers strap those arose refer tests
float early anger scare tents feast lance organ alert tyres
grape ruled along fence trees graft ruler alone pence edges
traps human urine mania block thumb rural amino panic sneak
crime lemon input false flyer cliff renal imply mouse enter
aspen store sales elect tests asset stale poles erect nests
costs alpha viral event seeks caves olive spree thank salts
"""


def proposals(*words: tuple[str, str, str]) -> str:
    return json.dumps({"proposals": [{"place": p, "word": w, "confidence": c} for p, w, c in words]})


def verdict(text: str) -> str:
    return json.dumps({"verdict": text})


def is_judgement(call: Call) -> bool:
    return "verdict" in (call.schema or {}).get("properties", {})


def puzzle_of(call: Call) -> Puzzle:
    return PUZZLES[int(call.agent.split("/")[1])]


def open_places(call: Call) -> list[str]:
    return re.findall(r"^([hv]\d): .....$", call.last.split("Not full yet:")[1], re.MULTILINE)


def expert(call: Call) -> str:
    """Knows every word, and proposes the next two."""
    puzzle = puzzle_of(call)
    if is_judgement(call):
        place, pattern = call.agent.split("/")[2:]
        right = all(mine in ("_", theirs) for mine, theirs in zip(pattern, puzzle.word(place), strict=True))
        return verdict("sure" if right else "impossible")
    return proposals(*((place, puzzle.word(place), "high") for place in open_places(call)[:2]))


def run(script: object, settings: SearchSettings | None = None) -> tuple[CrosswordsResult, ScriptedAsker]:
    asker = ScriptedAsker(script)  # type: ignore[arg-type]
    return asyncio.run(play(settings or SearchSettings(), PUZZLES, asker)), asker


def test_our_own_puzzles_are_valid_squares_of_ten_different_words() -> None:
    assert len(PUZZLES) >= 5
    for puzzle in PUZZLES:
        board = Board()
        for place in PLACES:
            word = puzzle.word(place)
            # A word across and the words down agree in every cell.
            assert board.fits(place, word)
            board = board.with_word(place, word)
            assert puzzle.clues[place]
            assert word not in puzzle.clues[place].upper()
        assert board.letters == puzzle.letters
        assert len({puzzle.word(place) for place in PLACES}) == 10
        assert len(set(puzzle.clues.values())) == 10


def test_the_words_of_our_own_puzzles_are_those_that_the_clues_were_written_for() -> None:
    words = [" ".join(puzzle.word(place).lower() for place in PLACES) for puzzle in PUZZLES]
    assert words == WORDS.splitlines()


def test_who_knows_all_words_solves_all_puzzles() -> None:
    result, _ = run(expert)
    assert (result.letter_rate, result.word_rate, result.game_rate) == (1.0, 1.0, 1.0)
    assert all(each.n_turned_back == 0 for each in result.solved)
    assert result.failures == []


def test_the_search_turns_back_from_what_is_judged_impossible() -> None:
    """A wrong word is always proposed first and most confidently; judgements find it out."""

    def script(call: Call) -> str:
        if is_judgement(call):
            return expert(call)
        place = open_places(call)[0]
        right = puzzle_of(call).word(place)
        wrong = "".join("Q" if letter != "Q" else "X" for letter in right)
        return proposals((place, wrong, "certain"), (place, right, "low"))

    result, _ = run(script)
    assert result.game_rate == 1.0


def test_a_wrong_branch_that_looks_possible_is_left_when_it_ends() -> None:
    """The wrong first word passes its judgements, and then no more words are proposed: its sibling is next."""

    def script(call: Call) -> str:
        puzzle = puzzle_of(call)
        if is_judgement(call):
            return verdict("maybe")
        board = call.last.split("Board:\n")[1].split("\n\n")[0]
        if "Q Q Q Q Q" in board:
            return proposals()
        if board.count("_") == N_CELLS:
            return proposals(("h1", "QQQQQ", "certain"), ("h1", puzzle.word("h1"), "low"))
        return expert(call)

    result, _ = run(script)
    assert result.game_rate == 1.0
    assert all(each.n_turned_back >= 1 for each in result.solved)


def test_judgements_are_only_of_crossing_places_and_never_asked_twice() -> None:
    asker = ScriptedAsker(expert)
    asyncio.run(play(SearchSettings(), PUZZLES[:1], asker))
    judged = [call for call in asker.calls if is_judgement(call)]
    assert len({call.agent for call in judged}) == len(judged)
    assert {call.agent.split("/")[2][0] for call in judged[:10]} == {"v"}


def test_all_candidates_of_a_step_are_judged_at_once() -> None:
    asker = ScriptedAsker(expert)
    asyncio.run(play(SearchSettings(), PUZZLES[:1], asker))
    assert asker.most_running == 10  # two words across, on a board of their own each, change five places down


def test_puzzles_are_drawn_with_the_seed_and_worked_on_a_few_at_a_time() -> None:
    asker = ScriptedAsker(lambda call: proposals())
    result = asyncio.run(play(SearchSettings(n_puzzles=4, n_at_once=2), PUZZLES, asker))
    assert len(result.solved) == 4
    assert asker.most_running == 2


def test_a_search_ends_after_its_steps_with_the_fullest_board() -> None:
    result, asker = run(expert, SearchSettings(n_steps=2))
    for each in result.solved:
        assert each.n_steps == 2
        assert each.score.n_letters == 2 * SIZE
        assert not each.score.is_solved
    assert [signal for signal in asker.signals if signal[1] == "done"] == [
        (f"crosswords/{index}/words", "done") for index in range(len(PUZZLES))
    ]


def test_a_dead_end_at_the_root_ends_the_search() -> None:
    result, _ = run(lambda call: proposals())
    assert result.letter_rate == 0.0
    assert all(each.n_steps == 1 for each in result.solved)


def test_failing_calls_are_reported_and_give_nothing_up() -> None:
    result, _ = run(lambda call: None if is_judgement(call) else expert(call))
    assert result.game_rate == 1.0
    assert len(result.failures) > 0
    result, _ = run(lambda call: None)
    assert result.failures == [(index, "HTTP 503: busy") for index in range(len(PUZZLES))]


@pytest.mark.parametrize(
    "text",
    [
        proposals(("h1", "TOOLONG", "high"), ("h1", "ABC", "high"), ("x9", "WORDS", "high"), ("h2", "WORDS", "high")),
        '{"proposals": 3}',
        '{"proposals": [3, null]}',
        "[]",
        "no",
        "",
    ],
)
def test_illegal_proposals_are_left_out(text: str) -> None:
    board = Board().with_word("v1", "AAAAA")
    assert parse_proposals(Answer(text, ()), board) == []


def test_proposals_are_sorted_by_weight_and_equal_ones_add_up() -> None:
    text = proposals(
        ("h1", "words", "high"), ("h2", "ABCDE", "medium"), ("h3", "OTHER", "high"), ("H1", "WORDS", "low")
    )
    assert parse_proposals(Answer(text, ()), Board()) == [("h1", "WORDS"), ("h3", "OTHER"), ("h2", "ABCDE")]


@given(st.text())
def test_any_text_is_a_verdict(text: str) -> None:
    assert parse_verdict(Answer(text, ())) in ("sure", "maybe", "impossible")


@given(st.text("ABCDE", min_size=N_CELLS, max_size=N_CELLS), st.text("ABCDE_", min_size=N_CELLS, max_size=N_CELLS))
def test_scores_agree_with_counting(solution: str, letters: str) -> None:
    puzzle, board = Puzzle(dict.fromkeys(PLACES, "clue"), solution), Board(letters)
    found = score(puzzle, board)
    assert found.n_letters == sum(a == b for a, b in zip(solution, letters, strict=True))
    rows = [solution[i : i + 5] == letters[i : i + 5] for i in range(0, 25, 5)]
    columns = [solution[i::5] == letters[i::5] for i in range(5)]
    assert found.n_words == sum(rows + columns)
    assert found.is_solved == (solution == letters)


def test_every_place_crosses_the_five_of_the_other_kind_in_one_cell() -> None:
    for place in PLACES:
        others = list(crossing(place))
        assert len(others) == 5
        assert all(len(set(cells_of(place)) & set(cells_of(other))) == 1 for other in others)


def test_the_published_format_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mini0505.json"
    letters = list("abcdefghijklmnopqrstuvwxy")
    path.write_text(json.dumps([[[f"clue {number}" for number in range(10)], letters]]))
    (puzzle,) = read_puzzles(path)
    assert puzzle.word("h2") == "FGHIJ"
    assert puzzle.word("v5") == "EJOTY"
    assert puzzle.clues["v1"] == "clue 5"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "[[1, 2]]", json.dumps([[["clue"] * 9, ["A"] * 25]]), json.dumps([[["clue"] * 10, ["AB"] * 25]])],
)
def test_another_format_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "puzzles.json"
    path.write_text(text)
    with pytest.raises(UserError, match="10 clues"):
        read_puzzles(path)


def test_a_search_without_steps_is_refused() -> None:
    with pytest.raises(UserError, match="at least one step"):
        SearchSettings(n_steps=0)
