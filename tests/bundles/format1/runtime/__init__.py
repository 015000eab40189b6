"""segops: from PASCAL VOC files to a promoted segmentation model, again and again.

Importing it shortens how long idle threads of OpenMP spin before they sleep, for this process and
its children, where torch is not loaded yet and the user has not chosen. Spinning takes the cores
from whatever else runs on the machine, and from the threads that are waited for: beside other work
a training is then several times slower. It changes no result.
"""

import os

__version__ = "0.1.0"

if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "10000"
