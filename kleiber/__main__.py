"""`python -m kleiber` is the command `kleiber`."""

from kleiber.experiments.cli import main

raise SystemExit(main())
