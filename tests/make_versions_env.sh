#!/bin/sh
# Build an environment at an end of the ranges in requirements.txt, with the tests' packages.
#
#   sh tests/make_versions_env.sh lowest|newest [PYTHON [TARGET_DIR]]
#
# lowest: each range at its lower end, which is Google Colab's level in most: torch 2.11, ipywidgets
# 7.7.1, numpy 2.0; Python 3.12. Oracles that would need newer ones stay out, transformers and peft,
# which brings it; and Notebook, which only browser tests open.
# newest: what the registry has on this day; Python 3.13.
# Run it again at will: a finished one is kept, of newest for the day. It takes some minutes and, with CUDA, 6 GB.
set -eu
end=$1
case $end in
lowest) named=python3.12 ;;
newest) named=python3.13 ;;
*) echo "versions: lowest or newest, not '$end'" >&2; exit 1 ;;
esac
target=${3:-.venv-$end}
python=${2:-$named}
runs() { "$1" -c '' 2>/dev/null; }
if ! runs "$python"; then
    echo "versions: no $python runs here"
    # pyenv's python3.12 on PATH runs only where that version was chosen; its own one always does.
    for own in "${PYENV_ROOT:-$HOME/.pyenv}/versions/${named#python}".*/bin/python .venv/bin/python; do
        if runs "$own"; then python=$own; break; fi
    done
    echo "versions: $python is taken"
fi
packages=$("$python" - "$end" <<'PY'
import re
import sys
import tomllib

end = sys.argv[1]
with open("requirements.txt", encoding="utf-8") as file:
    lines = [line.strip() for line in file if line.strip() and not line.startswith("#")]
with open("pyproject.toml", "rb") as file:
    tests = tomllib.load(file)["project"]["optional-dependencies"]["test"]
if end == "lowest":
    lines = [re.sub(r">=([^,;]*)[^;]*", r"==\1", line) for line in lines]
    tests = [test for test in tests if not test.startswith(("transformers", "peft", "notebook"))]
print(*lines, *tests, sep="\n")
PY
)
stamp="$target/.complete"
wanted="$packages $("$python" -c 'import sys; print(sys.version)')"
if [ "$end" = newest ]; then wanted="$wanted $(date +%F)"; fi
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    echo "versions: $target is complete"
    exit 0
fi
echo "versions: making $target with $("$python" --version)"
rm -rf "$target"
"$python" -m venv "$target"
printf '%s\n' "$packages" > "$target/packages.txt"
"$target/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$target/packages.txt"
"$target/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --editable .
"$target/bin/python" -P -c 'import ipywidgets, numpy, platform, torch
print("versions: Python", platform.python_version(), "torch", torch.__version__,
      "numpy", numpy.__version__, "ipywidgets", ipywidgets.__version__)'
printf '%s\n' "$wanted" > "$stamp"
