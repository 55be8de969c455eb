#!/bin/sh
# Put Triton 3.6, the level of torch 2.11 and Google Colab, into a folder beside the environment.
#
#   sh tests/make_triton36_env.sh [MAIN_PYTHON [TARGET_DIR]]      (.venv/bin/python .venv-triton36)
#
# It is no environment: named in PYTHONPATH, its two packages come before those of the main one.
# Run it again at will: a finished one is kept. It takes a minute and 0.7 GB.
set -eu
main_python=${1:-.venv/bin/python}
target=${2:-.venv-triton36}
if [ "$(uname -s)" != Linux ]; then
    echo "triton36: Triton has wheels for Linux alone"
    exit 0
fi
# The interpreter of Triton 3.6 makes Python numbers of arrays in a way that numpy 2.4 refuses.
packages="triton==3.6.0 numpy==2.3.5"

stamp="$target/.complete"
wanted="$packages $("$main_python" -c 'import sys; print(sys.version)')"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    echo "triton36: $target is complete"
    exit 0
fi
echo "triton36: installing $packages in $target"
rm -rf "$target"
"$main_python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$target" $packages
PYTHONPATH=$target "$main_python" -P -c 'import numpy, torch, triton
assert triton.__version__ == "3.6.0", triton.__file__
assert numpy.__version__ == "2.3.5", numpy.__file__
print("triton36: triton", triton.__version__, "with torch", torch.__version__)'
printf '%s\n' "$wanted" > "$stamp"
