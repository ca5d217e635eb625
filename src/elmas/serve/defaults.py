"""Defaults from `.env` in the working directory and from environment variables, which win over the file."""

from pathlib import Path

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from elmas.errors import UserError
from elmas.serve.machine import DEVICES
from elmas.serve.options import DEFAULT_HOST, DEFAULT_PORT


class ServeDefaults(BaseSettings):
    """What `elmas serve` and the client programs use when their command line does not say; see `.env.example`."""

    # A name that is set but empty counts as not set, so that a line of `.env` can be blanked instead of deleted.
    model_config = SettingsConfigDict(extra="ignore", env_ignore_empty=True, env_file_encoding="utf-8")

    default_model: str | None = None
    default_host: str = DEFAULT_HOST
    default_port: int = Field(DEFAULT_PORT, ge=1, le=65535)
    default_device: str = "auto"
    openai_api_key: SecretStr | None = None

    @field_validator("default_device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if value not in DEVICES:
            raise ValueError(f"{value!r} is not a device: choose one of {', '.join(DEVICES)}")
        return value

    @classmethod
    def load(cls, env_file: Path = Path(".env")) -> "ServeDefaults":
        """Return the defaults; raises UserError naming the variable and its bad value, or an unreadable file."""
        try:
            # The file is an argument of pydantic-settings' initialiser that is not among the fields.
            return cls(_env_file=env_file)  # type: ignore[call-arg]
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]).upper()
            message = str(first["msg"]).removeprefix("Value error, ")
            if name == "DEFAULT_PORT":
                message = f"{first['input']!r} is not a port: write a number from 1 to 65535"
            raise UserError(f"{name} (environment or {env_file}): {message}") from None
        except (OSError, UnicodeError) as error:
            raise UserError(f"cannot read {env_file}: {error}") from None
