"""Chat, completions, profiling and the town, by their commands, against a stub server in a thread."""

import contextlib
import io
import json
import os
import pty
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from elmas.agents.programs.conversation import Conversation, Turn
from elmas.agents.programs.profiling import make_groups
from elmas.agents.programs.terminal import Terminal
from elmas.cli import app
from elmas.errors import UserError
from tests.bench.stub_server import StubServer, running_stub


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StubServer]:
    with running_stub() as server:
        monkeypatch.chdir(tmp_path)  # no .env here
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        server.behaviour.answer = lambda body: f"You said {body['messages'][-1]['content']}"
        yield server


def run(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(app, ["agents", *arguments], input=stdin)


def said(stub: StubServer, number: int) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in stub.bodies[number]["messages"]]


def test_a_chat_remembers_everything_and_a_pipe_gets_the_answers_alone(stub: StubServer) -> None:
    result = run("chat", "--system", "Be kind.", "--temperature", "0.1", "--max-tokens", "7", stdin="one\n\ntwo\n")
    assert result.exit_code == 0
    assert result.stdout == "You said one\nYou said two\n"
    assert said(stub, 1) == [
        ("system", "Be kind."),
        ("user", "one"),
        ("assistant", "You said one"),
        ("user", "two"),
    ]
    assert stub.bodies[0]["temperature"] == 0.1
    assert stub.bodies[0]["max_tokens"] == 7
    assert stub.session_ids[0] is not None
    assert stub.session_ids[0] == stub.session_ids[1]


def test_reset_begins_a_new_session_and_keeps_the_system_prompt(stub: StubServer) -> None:
    run("chat", "--system", "A", stdin="one\n/system B\n/reset\ntwo\n")
    assert said(stub, 1) == [("system", "B"), ("user", "two")]
    assert stub.session_ids[0] != stub.session_ids[1]


def test_a_saved_chat_goes_on_where_it_ended(stub: StubServer, tmp_path: Path) -> None:
    stub.behaviour.cached_tokens = 3
    first = run("chat", "--system", "A", stdin="one\n/save chat.json\n/quit\nnot said\n")
    assert "written: chat.json" in first.stderr
    assert len(stub.bodies) == 1
    result = run("chat", "--load", "chat.json", stdin="two\n/stats\n")
    assert said(stub, 1) == [("system", "A"), ("user", "one"), ("assistant", "You said one"), ("user", "two")]
    rows = [line.split("│")[1:4] for line in result.stdout.splitlines() if line.startswith("│")]
    # The stub counts words as prompt tokens.
    assert [[cell.strip() for cell in row] for row in rows] == [["1", "2", "3"], ["2", "6", "3"]]
    inside = run("chat", stdin="/load chat.json\n/system\n/load absent.json\ntwo\n")
    assert said(stub, 2) == said(stub, 1)
    assert "cannot read absent.json" in inside.stderr
    assert "A\n" in inside.stderr


def test_lines_can_be_continued_and_slashes_said(stub: StubServer) -> None:
    result = run("chat", stdin="one\\\ntwo\n//help me\n/what\n/save\n/help\n")
    assert said(stub, 0)[-1] == ("user", "one\ntwo")
    assert said(stub, 1)[-1] == ("user", "/help me")
    assert len(stub.bodies) == 2
    assert "no command /what" in result.stderr
    assert "/save needs a file" in result.stderr
    assert "Ctrl-C" in result.stderr


def test_a_failed_answer_is_told_and_is_not_part_of_the_conversation(stub: StubServer) -> None:
    stub.behaviour.fail_first = 1
    result = run("chat", stdin="one\none\n")
    assert result.exit_code == 1
    assert "no answer: HTTP 503" in result.stderr
    assert said(stub, 1) == [("user", "one")]


def test_a_chat_needs_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    for command in ("chat", "complete", "profile"):
        result = run(command, stdin="one\n")
        assert isinstance(result.exception, UserError)
        assert "nobody listens" in str(result.exception)


class Person:
    """Somebody at a terminal: types, reads, and presses keys."""

    def __init__(self, *arguments: str) -> None:
        program = "from elmas.cli import main; main()"
        self._process, self._terminal = pty.fork()
        if self._process == 0:
            # A shell that runs the tests in the background has told them to ignore it.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.execv(sys.executable, [sys.executable, "-c", program, "agents", *arguments])
        self._seen = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def wait_for(self, text: str) -> None:
        end_s = time.monotonic() + 60
        while text not in self._seen:
            assert time.monotonic() < end_s, self._seen
            assert self._reader.is_alive() or text in self._seen, self._seen
            time.sleep(0.02)

    def leave(self) -> int:
        """Press Ctrl-D; returns the exit status."""
        self.type("\x04")
        self._reader.join(60)
        return os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])

    def _read(self) -> None:
        # A terminal whose other side is closed is an error to Linux, not the end of a file.
        with contextlib.suppress(OSError):
            while data := os.read(self._terminal, 4096):
                self._seen += data.decode(errors="replace")
        os.close(self._terminal)


def test_ctrl_c_stops_the_answer_and_not_the_chat(stub: StubServer) -> None:
    stub.behaviour.answer = lambda body: "early " + "word " * (5 if "short" in str(body["messages"][-1]) else 10_000)
    stub.behaviour.gap_s = 0.05
    person = Person("chat")
    person.wait_for("/help lists the commands")
    person.type("tell me\n")
    person.wait_for("early word")
    person.type("\x03")
    person.wait_for("(interrupted)")
    end_s = time.monotonic() + 30
    while stub.running:
        assert time.monotonic() < end_s, "the server still generates"
        time.sleep(0.02)
    person.type("half a li\x03")
    person.wait_for("/quit leaves")
    stub.behaviour.gap_s = 0.0
    person.type("now short\n")
    person.wait_for("early word word word word word")
    person.type("/stats\n")
    person.wait_for("interrupted │")
    assert person.leave() == 0
    (_, first), (_, partial), (_, last) = said(stub, 1)
    assert (first, last) == ("tell me", "now short")
    assert partial.startswith("early word")
    assert len(partial) < 10_000


def test_a_completion_shows_the_continuation_and_passes_its_options(stub: StubServer) -> None:
    options = ("--top-p", "0.5", "--stop", "x", "--stop", "y", "--echo", "--frequency-penalty", "0.8")
    result = run("complete", "Once", "--max-tokens", "3", "--temperature", "0", *options)
    assert result.exit_code == 0
    assert result.stdout == " t0 t1 t2\n"
    assert "3 answered, TTFT" in result.stderr
    body = stub.bodies[0]
    assert (body["prompt"], body["stop"], body["echo"]) == ("Once", ["x", "y"], True)
    assert (body["top_p"], body["frequency_penalty"], body["temperature"]) == (0.5, 0.8, 0.0)


def test_completions_at_a_terminal_go_on_line_by_line(stub: StubServer) -> None:
    person = Person("complete", "--max-tokens", "3")
    person.wait_for("prompt> ")
    person.type("Once\n")
    person.wait_for(" t0 t1 t2")
    person.wait_for("3 answered")
    stub.behaviour.delay_s = 60.0
    person.type("upon\n")
    while not stub.running:
        time.sleep(0.02)
    person.type("\x03")
    person.wait_for("(interrupted)")
    assert person.leave() == 0
    assert [body["prompt"] for body in stub.bodies] == ["Once", "upon"]


def test_a_completion_takes_all_that_is_piped_in_and_leaves_out_what_is_off(stub: StubServer) -> None:
    assert run("complete", stdin="Once\nupon\n").exit_code == 0
    assert stub.bodies[0]["prompt"] == "Once\nupon"
    assert not {"stop", "echo", "frequency_penalty"} & set(stub.bodies[0])


def test_a_completion_that_fails_says_so(stub: StubServer) -> None:
    stub.behaviour.status = 404
    result = run("complete", "Once")
    assert result.exit_code == 1
    assert "no answer: HTTP 404" in result.stderr


def test_the_profiler_runs_around_all_prompts_and_stops_whatever_happens(stub: StubServer) -> None:
    stub.behaviour.profiles = True
    result = run("profile", "--size", "2")
    assert result.exit_code == 0
    n_calls = 2 + 2 + 2 + 6
    assert stub.profiler_orders == ["/start_profile after 0", f"/stop_profile after {n_calls}"]
    assert "Perfetto" in result.stdout
    stub.behaviour.status = 500
    assert run("profile", "--size", "1").exit_code == 1
    assert stub.profiler_orders[-1] == f"/stop_profile after {n_calls + 6}"


def test_a_server_without_a_profiler_is_told_in_one_line(stub: StubServer) -> None:
    for arguments in ((), ("--command", "true")):
        result = run("profile", *arguments)
        assert isinstance(result.exception, UserError)
        assert "elmas serve MODEL --profiling" in str(result.exception)
    assert run("profile", "--no-profiler", "--size", "1").exit_code == 0
    assert not stub.profiler_orders


def test_groups_repeat_share_and_return(stub: StubServer) -> None:
    stub.behaviour.cached_tokens = 5
    result = run("profile", "--no-profiler", "--size", "3", "--seed", "a")
    assert "returning" in result.stdout
    sent = [body["messages"] for body in stub.bodies]
    unrelated, repeated, shared, returning = sent[:3], sent[3:6], sent[6:9], sent[9:]
    assert len({messages[0]["content"][:20] for messages in unrelated}) == 3
    assert repeated[0] == repeated[1] == repeated[2]
    assert len({messages[0]["content"] for messages in shared}) == 1
    assert len({messages[1]["content"] for messages in shared}) == 3
    assert len(returning) == 9
    for earlier, later in zip(returning[:6], returning[3:], strict=True):
        assert later[: len(earlier)] == earlier
    assert make_groups(3, "a") == make_groups(3, "a")
    systems = [{script.system for group in make_groups(3, seed) for script in group.scripts} for seed in "ab"]
    assert not systems[0] & systems[1]


def test_any_command_can_be_profiled_and_its_status_is_passed_on(stub: StubServer, tmp_path: Path) -> None:
    stub.behaviour.profiles = True
    code = "import pathlib, sys; pathlib.Path('ran').touch(); sys.exit(3)"
    result = run("profile", "--command", shlex.join([sys.executable, "-c", code]))
    assert result.exit_code == 3
    assert (tmp_path / "ran").exists()
    assert stub.profiler_orders == ["/start_profile after 0", "/stop_profile after 0"]
    for command in ("no-such-program", ""):
        missing = run("profile", "--command", command)
        assert isinstance(missing.exception, UserError)
        assert "no program" in str(missing.exception)
    assert len(stub.profiler_orders) == 2


def legal(schema: Mapping[str, Any]) -> Any:
    """The first answer that fits a schema of the town."""
    if schema["type"] == "object":
        return {name: legal(rule) for name, rule in schema["properties"].items()}
    return schema["enum"][-1] if "enum" in schema else 3 if schema["type"] == "integer" else "✓"


def test_the_town_shows_what_everybody_does_and_counts_what_was_asked(stub: StubServer, tmp_path: Path) -> None:
    stub.behaviour.answer = lambda body: json.dumps(legal(body["response_format"]["json_schema"]["schema"]))
    stub.behaviour.cached_tokens = 5
    result = run("town", "--num-agents", "3", "--num-ticks", "3", "--dump", "town.json")
    assert result.exit_code == 0, result.output
    assert "06:15" in result.stdout
    assert "Watermill, grinding floor, flour chute" in result.stdout
    town = json.loads((tmp_path / "town.json").read_text())
    assert [len(each["actions"]) for each in town["ticks"]] == [3, 3, 3]
    assert len(town["decisions"]) == len(stub.bodies)
    assert set(stub.session_ids) <= {f"town/{i}/{decision['kind']}" for i in range(3) for decision in town["decisions"]}


def test_a_town_whose_calls_fail_lives_on_and_says_so(stub: StubServer) -> None:
    stub.behaviour.status = 404
    result = run("town", "--num-agents", "2", "--num-ticks", "2")
    assert result.exit_code == 1
    assert "calls failed, the first with: HTTP 404" in result.stderr


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "[]",
        json.dumps({"system": "", "messages": [{"role": "user", "content": "a"}], "turns": []}),
        json.dumps({"system": "", "messages": [{"role": "user"}, {"role": "assistant"}], "turns": [{}]}),
        json.dumps({"system": 3}),
    ],
)
def test_what_is_no_saved_conversation_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "chat.json"
    path.write_text(content)
    with pytest.raises(UserError, match="no saved conversation"):
        Conversation.load(path)


def test_a_conversation_survives_its_file(tmp_path: Path) -> None:
    conversation = Conversation("Sei höflich.")
    conversation.add("wie?", "so: ✓", Turn(3, 2, 1, 0.5, None))
    conversation.add("und?", "", Turn(was_interrupted=True))
    conversation.save(tmp_path / "chat.json")
    assert Conversation.load(tmp_path / "chat.json") == conversation
    with pytest.raises(UserError, match="cannot write"):
        conversation.save(tmp_path / "absent" / "chat.json")


@pytest.mark.parametrize(("text", "lines"), [("a\nb", ["a", "b"]), ("a\\\n\\\nb\n", ["a\n\nb"]), ("a\\", ["a\n"])])
def test_lines_end_where_they_end(text: str, lines: list[str]) -> None:
    assert list(Terminal(io.StringIO(text), io.StringIO(), io.StringIO()).lines("")) == lines
