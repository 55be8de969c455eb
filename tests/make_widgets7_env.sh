#!/bin/sh
# Build a second environment with ipywidgets 7.7.1, the level of Google Colab, beside the main one.
#
#   sh tests/make_widgets7_env.sh [MAIN_PYTHON [TARGET_DIR]]      (.venv/bin/python .venv-widgets7)
#
# It holds four small packages and borrows all others (torch, JupyterLab 4, ...) from the main
# environment, so it takes seconds and about 10 MB. Run it again at will: a finished one is kept.
set -eu
main_python=${1:-.venv/bin/python}
target=${2:-.venv-widgets7}
# jupyterlab_widgets 1.1.11 is the front end of ipywidgets 7 that also loads in JupyterLab 4.
packages="ipywidgets==7.7.1 jupyterlab_widgets==1.1.11 widgetsnbextension==3.6.10 ipython_genutils==0.2.0"

site_of() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
prefix_of() { "$1" -c 'import sys; print(sys.prefix)'; }
main_site=$(site_of "$main_python")
main_prefix=$(prefix_of "$main_python")
stamp="$target/.complete"
wanted="$packages $main_site $("$main_python" -c 'import sys; print(sys.version)')"

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    echo "widgets7: $target is complete"
    exit 0
fi
echo "widgets7: making $target beside $main_prefix"
rm -rf "$target"
"$main_python" -m venv --without-pip "$target"
python="$target/bin/python"
echo "widgets7: installing $packages"
"$main_python" -m pip --python "$python" install --quiet --disable-pip-version-check --no-deps $packages
# Its own packages come first; addsitedir also follows the main one's editable installs.
echo "import site; site.addsitedir(r'$main_site')" > "$(site_of "$python")/main_environment.pth"
# JupyterLab looks for its page and its server extensions under the running prefix.
mkdir -p "$target/share/jupyter" "$target/etc/jupyter"
for part in share/jupyter/lab share/jupyter/nbconvert etc/jupyter/jupyter_server_config.d; do
    if [ -e "$main_prefix/$part" ]; then ln -sfn "$main_prefix/$part" "$target/$part"; fi
done
"$python" -c 'import ipywidgets, jupyterlab, sys
assert ipywidgets.__version__ == "7.7.1", ipywidgets.__file__
print("widgets7: ipywidgets", ipywidgets.__version__, "with JupyterLab", jupyterlab.__version__)'
printf '%s\n' "$wanted" > "$stamp"
