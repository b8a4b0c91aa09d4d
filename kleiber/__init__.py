"""kleiber tells you what a bigger model will do, and how sure it is, before you pay for it."""

import sys

from kleiber.moved import Moved

sys.meta_path.append(Moved())
