"""`vllm serve` with several API servers: `python -m elmas.vllm.api_servers` with vLLM's arguments.

One API server is one event loop, which works on the requests of a round of agents in turns and passes them all on when
it is done with all: 320 prompts of 2,000 tokens take 0.75 s. vLLM's own module for one server ignores
`--api-server-count`, and its command looks for a distribution of the name vllm, which the CPU build has not.
"""

from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
from vllm.utils.argparse_utils import FlexibleArgumentParser


def main() -> None:
    """Start vLLM as its command does."""
    cli_env_setup()
    args = make_arg_parser(FlexibleArgumentParser(prog="elmas.vllm.api_servers")).parse_args()
    validate_parsed_serve_args(args)
    ServeSubcommand.cmd(args)


if __name__ == "__main__":
    main()
