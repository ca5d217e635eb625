"""Settings and sizes: one line that says what to change for everything that cannot be."""

import json
from pathlib import Path

import pytest

from elmas.errors import UserError
from elmas.settings import HEADROOM_BYTES, CacheSettings, available_memory_bytes
from elmas.units import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("8GiB", 8 << 30), ("512 MiB", 512 << 20), ("100GB", 100 * 10**9), ("1.5g", 3 << 29), ("4096", 4096), (7, 7)],
)
def test_sizes_as_people_write_them(text: str | int, n_bytes: int) -> None:
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize("text", ["", "8 apples", "-1GiB", "0", "GiB", "1e9"])
def test_bad_sizes_name_the_option(text: str) -> None:
    with pytest.raises(UserError, match="--host-memory"):
        parse_bytes(text, "--host-memory")


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(12, "12 B"), (1536, "1.5 KiB"), (100 << 20, "100 MiB"), (5 << 40, "5.0 TiB")]
)
def test_format_bytes(n_bytes: int, text: str) -> None:
    assert format_bytes(n_bytes) == text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"host_memory": "lots"}, "host_memory is 'lots': write a size such as 8GiB"),
        ({"policy": "best"}, "unknown policy 'best': choose one of arc, lru"),
        ({"hostmemory": "1GiB"}, "unknown setting 'hostmemory': the settings are host_memory, policy"),
        ({"scheduler_window_size": 0}, "scheduler_window_size: Input should be greater than or equal to 1"),
        ({"store": "perhaps"}, "store: Input should be a valid boolean"),
        ({"disk": "d"}, "--disk needs a size: add --disk-capacity, such as 200GiB"),
        ({"disk_capacity": "1GiB"}, "--disk-capacity has no directory: add --disk DIR"),
        ({"disk": "", "disk_capacity": "1GiB"}, "--disk is empty: name a directory"),
        ({"disk": "~nobody-of-this-name/d", "disk_capacity": "1GiB"}, "--disk is '~nobody-of-this-name/d': no home"),
        ({"disk": "d", "disk_capacity": "big"}, "disk_capacity is 'big': write a size such as 8GiB"),
        ({"disk_write_rate": 0}, "disk_write_rate is '0': it must be more than zero"),
        ({"disk_write_per_day": "-1"}, "disk_write_per_day is '-1': write a size such as 8GiB"),
        ({"disk_admission": "most"}, "disk_admission: Input should be 'reuse' or 'all'"),
        ({"disk_max_wait_s": -1}, "disk_max_wait_s: Input should be greater than or equal to 0"),
        ({"disk_max_wait_s": float("inf")}, "disk_max_wait_s: Input should be a finite number"),
    ],
)
def test_bad_settings_say_what_to_change(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        CacheSettings.parse(values)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_settings_survive_the_journey_through_vllms_configuration() -> None:
    settings = CacheSettings.parse({"host_memory": "2GiB", "reorder": False})
    assert settings.to_extra_config() == {"host_memory": 2 << 30, "reorder": False}
    assert CacheSettings.parse(settings.to_extra_config()) == settings
    assert CacheSettings.parse({}).to_extra_config() == {}


def test_every_disk_setting_survives_the_journey_as_plain_json(tmp_path: Path) -> None:
    values = {
        "disk": str(tmp_path),
        "disk_capacity": "100GB",
        "prefetch": False,
        "cost_gate": False,
        "disk_write": False,
        "disk_admission": "all",
        "disk_write_rate": "80MB",
        "disk_write_per_day": "2TiB",
        "disk_max_wait_s": 0.5,
    }
    settings = CacheSettings.parse(values)
    extra = settings.to_extra_config()
    assert extra == values | {"disk_capacity": 10**11, "disk_write_rate": 8 * 10**7, "disk_write_per_day": 2 << 40}
    assert CacheSettings.parse(json.loads(json.dumps(extra))) == settings


def test_the_directory_is_absolute_from_then_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    for given, expected in (("kv", str(tmp_path / "kv")), ("~/kv", "/home/someone/kv"), ("/kv", "/kv")):
        assert CacheSettings.parse({"disk": given, "disk_capacity": "1GiB"}).disk == expected


def test_memory_that_is_not_free_is_refused() -> None:
    with pytest.raises(UserError, match=r"host memory of .* exceeds the .* that are free: lower --host-memory"):
        CacheSettings.parse({"host_memory": available_memory_bytes() + HEADROOM_BYTES}).host_memory_bytes()
    assert 0 < CacheSettings.parse({"host_memory": "auto"}).host_memory_bytes() < available_memory_bytes()
