"""Imports point one way, and the pure rooms stay pure."""

import ast
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "elmas"

# A room may import the rooms named here, besides itself and the base modules below.
ALLOWED = {
    "cache": set(),
    "movement": {"cache"},
    "scheduling": {"cache"},
    "tiers": {"cache"},
    "models": set(),
    "sim": {"cache", "models", "movement", "scheduling", "tiers"},
    "vllm": {"cache", "movement", "scheduling", "tiers"},
    "serve": {"cache", "tiers"},
    "agents": set(),
    "bench": {"agents", "sim", "serve", "models", "cache", "movement", "tiers", "vllm"},
    "cli": {"agents", "bench", "serve", "models", "sim", "tiers"},
}
BASE = {"errors", "units", "settings", "preflight", "__init__"}
PURE = {"cache", "movement", "scheduling"}
IMPURE_MODULES = {"vllm", "torch", "time", "threading", "asyncio", "random", "datetime", "socket"}


def imports(path: Path) -> set[str]:
    """Return the modules a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def test_imports_point_one_way() -> None:
    wrong = []
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        for module in imports(path):
            parts = module.split(".")
            if parts[0] != "elmas" or len(parts) == 1:
                continue
            target = parts[1]
            if room in BASE:
                allowed = BASE | {"cache"}
            else:
                allowed = ALLOWED[room] | BASE | {room}
            if target not in allowed:
                wrong.append(f"{path.relative_to(SOURCE)} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_pure_rooms_know_no_vllm_no_clock_and_no_thread() -> None:
    wrong = [
        f"{path.relative_to(SOURCE)} imports {module}"
        for room in PURE
        for path in (SOURCE / room).rglob("*.py")
        for module in imports(path)
        if module.split(".")[0] in IMPURE_MODULES
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_adapter_imports_vllm() -> None:
    wrong = [
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if path.relative_to(SOURCE).parts[0] != "vllm"
        and any(module.split(".")[0] in {"vllm", "torch"} for module in imports(path))
    ]
    assert not wrong, "\n".join(wrong)
