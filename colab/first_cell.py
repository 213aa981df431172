# @title Set up: finds a checkout, or clones one { display-mode: "form" }
# @markdown The repository has no public address yet: give the address of a clone that this machine can reach.
# @markdown A notebook that is opened inside a checkout finds it by itself.
REPOSITORY = "https://github.com/OWNER/sparsejax"  # @param {type:"string"}
REPLACE_ACCELERATOR = False  # @param {type:"boolean"}

import pathlib
import subprocess
import sys

here = pathlib.Path.cwd()
places = [here, *here.parents, here / "sparsejax"]
checkout = next((place for place in places if (place / "colab" / "setup.py").exists()), None)
if checkout is None:
    if "/OWNER/" in REPOSITORY:
        raise RuntimeError("sparsejax has no public address yet: put that of a clone into REPOSITORY, above.")
    checkout = here / "sparsejax"
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", REPOSITORY, str(checkout)], check=True)
sys.path.insert(0, str(checkout))

from colab.setup import set_up

set_up(checkout, replace_accelerator=REPLACE_ACCELERATOR)
