"""The command line: ``stimulative COMMAND``. Commands translate between words and the library; none does the work."""

from stimulative.cli.command_line import COMMANDS as COMMANDS
from stimulative.cli.command_line import main as main
