"""A real JupyterLab in a real Chromium: the harness of the browser tests and the latency benchmark.

    with LabServer({"a.ipynb": notebook("import moeviz", "moeviz.panels.training.race()")}) as lab:
        with open_browser() as page:
            open_notebook(page, lab, "a.ipynb")
            assert run_all(page) == []
            before = picture(page, ".my-panel")
            press_slider(page, ".my-slider", "ArrowRight")
            wait_for_change(page, before, ".my-panel")
            assert problems(page) == []

The server has its own port, token, settings and kernels, serves a copy of the notebooks, and stops
all it started. Selectors are CSS classes that widgets got by `add_class`; ipywidgets 7 and 8 alike.
"""

import contextlib
import json
import os
import pathlib
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import nbformat

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
).split()
FOLDERS = (
    "JUPYTER_CONFIG_DIR JUPYTER_DATA_DIR JUPYTER_RUNTIME_DIR JUPYTERLAB_SETTINGS_DIR "
    "JUPYTERLAB_WORKSPACES_DIR IPYTHONDIR MPLCONFIGDIR MOEVIZ_HOME"
).split()
PATIENCE = 300  # seconds: nothing may fail because a machine has much else to do
# What the tests' packages add to the page: a learner's has none of it, and Voilà cannot load it.
NOT_OURS = (
    "jupyterlab-jupytext", "@jupyter-notebook/lab-extension",
    "@voila-dashboards/jupyterlab-preview",
)  # fmt: skip
NOTEBOOKS = pathlib.Path(__file__).resolve().parents[1] / "notebooks"
PICTURE = ".moeviz-picture"
# To a server of this machine, past the proxy that an environment variable may name.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# JupyterLab resolves the badge's address while the page already loads it by the unresolved one.
BADGE = "/lab/tree/img/colab.svg"

# The part that runs in the page: window.moeviz.
_SCRIPT = """
window.moeviz = {
    faults: [], own: new Set(),
    session: () => window.jupyterapp?.shell?.currentWidget?.sessionContext,
    kernel: () => moeviz.session()?.session?.kernel,
    ready: () => moeviz.session()?.isReady && moeviz.kernel()?.connectionStatus === 'connected'
        && moeviz.kernel()?.status === 'idle',
    within: (ms, what, promise) => Promise.race([promise, new Promise((_, fail) =>
        setTimeout(() => fail(new Error(`${what}: not done after ${ms / 1000} s`)), ms))]),
    runAll: ms => moeviz.within(ms, 'run all cells',
        window.jupyterapp.commands.execute('notebook:run-all-cells')),
    // Exceptions in callbacks and threads belong to no cell: JupyterLab shows them in its log only.
    // JupyterLab asks a kernel for its widgets before it has any; ids with dashes are JupyterLab's.
    watch: () => void moeviz.session().iopubMessage.connect((_, m) => {
        const c = m.content, type = m.header.msg_type;
        const usual = /^.*No such comm(: [0-9a-f]{8}-| target registered: jupyter.widget.control)/;
        if (moeviz.own.has(m.parent_header?.msg_id) || usual.test(c.text)) return;
        if (type === 'error') moeviz.faults.push(`kernel: ${c.ename}: ${c.evalue}`);
        if (c.name === 'stderr') moeviz.faults.push(`kernel: stderr: ${c.text}`) }),
    run: async ([code, ms]) => {
        let out = '', error = '';
        const future = moeviz.kernel().requestExecute({code, store_history: false});
        moeviz.own.add(future.msg.header.msg_id);
        future.onIOPub = m => {
            if (m.header.msg_type === 'stream') out += m.content.text;
            if (m.header.msg_type === 'error') error = m.content.traceback.join('\\n') };
        await moeviz.within(ms, 'code in the kernel', future.done);
        if (error) throw new Error(error);
        return out },
    errors: () => {
        const found = [...moeviz.faults], css = '.moeviz-unexpected,'
            + '.jupyter-widgets-error-widget, .jupyter-widgets [data-mime-type*="stderr"]';
        const cells = window.jupyterapp?.shell?.currentWidget?.content?.widgets;
        (cells ?? []).forEach((cell, i) => (cell.model.toJSON().outputs ?? []).forEach(o => {
                if (o.output_type === 'error') found.push(`cell ${i}: ${o.ename}: ${o.evalue}`);
                if (o.name === 'stderr') found.push(`cell ${i}: stderr: ${[o.text].flat()}`) }));
        document.querySelectorAll(css).forEach(e => {
            if (e.matches('.icon-error')) e.parentElement.click();  // only then it says why
            if (e.textContent.trim()) found.push(`${e.className}: ${e.textContent.trim()}`) });
        return found },
};"""


def notebook(*sources):
    """Build a notebook (a dict, as in the file) whose code cells have these sources."""
    # Without a kernelspec JupyterLab asks in a modal window which kernel to take.
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


class LabServer:
    """A JupyterLab of its own on copies of some notebooks; stops its kernels and itself at the end.

    notebooks: {name: path or notebook dict}, or paths; python: whose jupyterlab and kernel to use;
    env: environment variables to add. Live runs are kept in a folder of the server's own, unless
    env says otherwise (MOEVIZ_HOME).
    """

    def __init__(self, notebooks, python=sys.executable, env=None):
        if not isinstance(notebooks, dict):
            notebooks = {pathlib.Path(p).name: p for p in notebooks}
        self.python = os.path.abspath(shutil.which(python) or python)  # a venv's link, unresolved
        self.notebooks, self.env = notebooks, dict(env or {})
        self.token, self.process = secrets.token_hex(16), None

    def __enter__(self):
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="moeviz-browser-"))
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self):
        self.root = self.home / "root"
        self.root.mkdir()
        for name, content in self.notebooks.items():
            self.put(name, content)
        folders = {folder: str(self.home / folder.lower()) for folder in FOLDERS}
        env = {**os.environ, **folders, **self.env}
        env.pop("TRITON_INTERPRET", None)  # set by the tests for themselves; a user's lab has none
        # No news, no update check, no pop-up: nothing that could cover a panel.
        quiet = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}
        self.set("notification", quiet)
        config = self.home / "jupyter_config_dir" / "labconfig"
        config.mkdir(parents=True)
        disabled = json.dumps({"disabledExtensions": dict.fromkeys(NOT_OURS, True)})
        (config / "page_config.json").write_text(disabled, encoding="utf-8")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [self.python, "-m", "jupyterlab", f"--ServerApp.root_dir={self.root}"]
        command += (
            f"--ServerApp.port={port} --ServerApp.port_retries=0 --ServerApp.ip=127.0.0.1 "
            f"--IdentityProvider.token={self.token} --no-browser --allow-root "
            "--LabApp.expose_app_in_browser=True --JupyterNotebookApp.expose_app_in_browser=True "
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"
        ).split()
        with open(self.home / "server.log", "wb") as log:
            self.process = subprocess.Popen(command, env=env, cwd=self.root, stdout=log, stderr=log)
        end = time.monotonic() + PATIENCE
        while True:
            if self.process.poll() is not None or time.monotonic() > end:
                written = (self.home / "server.log").read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"JupyterLab did not start:\n{written[-3000:]}")
            with contextlib.suppress(OSError):
                self.rest("GET", "/api/status")
                return
            time.sleep(0.2)

    def __exit__(self, *exc):
        if self.process is not None:
            self.process.terminate()  # on which it ends its kernels
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def put(self, name, content):
        """Put a notebook, a path or a dict, among those that the lab shows."""
        if isinstance(content, dict):
            nbformat.write(content, self.root / name)
        else:
            shutil.copy(content, self.root / name)

    def set(self, name, values, package="@jupyterlab/apputils-extension"):
        """Write the settings `name` of a package; a page that is opened later has them."""
        folder = self.home / "jupyterlab_settings_dir" / package
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jupyterlab-settings").write_text(json.dumps(values), encoding="utf-8")

    def end_kernels(self):
        """End every session and its kernel; the pages must have let go of them."""
        for session in self.rest("GET", "/api/sessions"):
            self.rest("DELETE", f"/api/sessions/{session['id']}")

    def rest(self, method, path):
        """Call the server's REST interface and return the decoded answer."""
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(self.url + path, method=method, headers=headers)
        with DIRECT.open(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read() or b"null")


def free_port():
    """Return a port that nobody listens on. It lies below those that a system gives to whoever asks
    for any, so that none is given away between this call and the start of a server."""
    for port in random.sample(range(20000, 32000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("No free port found between 20000 and 32000.")


def find_chromium():
    """Return the path of a Chromium; RuntimeError says what to do when there is none."""
    named = os.environ.get("CHROMIUM")
    names = (named,) if named else CHROMIUM_NAMES
    for path in filter(None, map(shutil.which, names)):
        return path
    advice = "apt-get install chromium, or set CHROMIUM to the path of one"
    raise RuntimeError(f"No Chromium found (looked for {', '.join(names)}): {advice}.")


@contextlib.contextmanager
def open_shipped(notebooks, python=sys.executable, **size):
    """Yield a page and a server of notebooks with the badge beside them, which they all show."""
    with LabServer(notebooks, python) as lab, open_browser(**size) as page:
        shutil.copytree(NOTEBOOKS / "img", lab.root / "img")
        yield page, lab


@contextlib.contextmanager
def open_browser(width=1400, height=1000):
    """Yield a Playwright page in headless Chromium which records everything that goes wrong."""
    from playwright.sync_api import sync_playwright

    path = find_chromium()
    with sync_playwright() as pw:
        browser = pw.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(PATIENCE * 1000)
            page.add_init_script(_SCRIPT)
            page.faults = []  # what went wrong, in words
            note = page.faults.append
            page.on("console", lambda m: m.type == "error" and note(f"console: {m.text}"))
            page.on("response", lambda r: r.status >= 400 and note(f"HTTP {r.status}: {r.url}"))
            page.on(
                "requestfailed",
                lambda r: broke_off(r) or note(f"request failed: {r.failure}: {r.url}"),
            )
            page.on("pageerror", lambda error: note(f"page error: {error}"))
            page.on("crash", lambda _: note("the page crashed"))
            yield page
        finally:
            browser.close()


def broke_off(request):
    """Whether the page itself gave a request up, as each does that is left; it may be told late."""
    return request.failure == "net::ERR_ABORTED"


def leave(page):
    """Go away from a page: what goes wrong because it is closed is no fault."""
    page.goto("about:blank")
    page.wait_for_timeout(500)
    page.faults.clear()


def open_notebook(page, lab, name, host="lab/tree", timeout=PATIENCE):
    """Open notebook `name` of server `lab` and wait until its kernel really answers.

    host: the page that shows it, JupyterLab's or, as "notebooks", that of Notebook 7.

    The execution indicator says idle already while the kernel initialises, and cells sent then
    never run; so this waits for the session, the connection and the kernel's own idle.
    """
    address = f"{lab.url}/{host}/{name}?reset&token={lab.token}"  # a clean workspace
    page.goto(address, timeout=timeout * 1000)
    page.wait_for_function("() => window.moeviz?.ready()", timeout=timeout * 1000)
    page.evaluate("() => moeviz.watch()")


def run_all(page, timeout=PATIENCE):
    """Run all cells, wait for the end, and return the exceptions and stderr text so far: of the
    kernel, of cell outputs and of panels."""
    page.evaluate("ms => moeviz.runAll(ms)", timeout * 1000)
    page.wait_for_timeout(200)  # the last outputs are drawn after the last reply
    found = page.evaluate("() => moeviz.errors()")
    return found + page.faults if found else []  # beside them what the page's console said


def problems(page, ignore=()):
    """Return all that went wrong so far, but for texts with a known substring in `ignore`."""
    faults = page.evaluate("() => moeviz.errors()") + page.faults
    return [text for text in faults if not any(known in text for known in ignore)]


def run_in_kernel(page, code, timeout=PATIENCE):
    """Run `code` in the notebook's kernel, outside any cell, and return what it printed."""
    return page.evaluate("call => moeviz.run(call)", [code, timeout * 1000])


def slider_handle(page, css):
    """Return the handle of the slider `css`, of ipywidgets 8 (noUiSlider) or 7 (jQuery UI)."""
    return page.locator(f"{css} .noUi-handle, {css} .ui-slider-handle").first


def press(control, *keys):
    """Wait until a control can be seen, focus it and press keys on it."""
    control.wait_for()  # one that "More" is about to show takes no focus, and no key, yet
    control.focus()
    for key in keys:
        control.page.keyboard.press(key)


def press_slider(page, css, key="ArrowRight", times=1):
    """Focus the handle of slider `css` and press a key on it some times."""
    press(slider_handle(page, css), *[key] * times)


def drag_slider(page, css, fraction, steps=10):
    """Drag the handle of slider `css` with the mouse to a fraction (0..1) of its track."""
    slider_handle(page, css).hover()
    track = page.locator(f"{css} .noUi-base, {css} .ui-slider").first.bounding_box()
    page.mouse.down()
    x, y = track["x"] + fraction * track["width"], track["y"] + track["height"] / 2
    page.mouse.move(x, y, steps=steps)
    page.mouse.up()


def type_text(page, css, text):
    """Replace the content of the text box `css` and press Enter."""
    box = page.locator(f"{css} input, {css} textarea").first
    box.fill(text)
    box.press("Enter")


def paste(page, css, state):
    """Give the panel `css` a state; its row is opened where it is not."""
    if not page.locator(f"{css} .moeviz-state input").first.is_visible():
        page.locator(f"{css} button.moeviz-take-away").first.click()
    state_string(page, css)  # the panel's own of before comes after its picture
    type_text(page, f"{css} .moeviz-state", state)


def write(page, css, text):
    """Replace the content of the text box `css` by typing, as a reader does."""
    press(page.locator(f"{css} input, {css} textarea").first, "Control+A")
    page.keyboard.type(text)


def click(page, css):
    """Click the button `css` (or the first one within it)."""
    page.locator(f"{css}:is(button), {css} button, {css} input[type=checkbox]").first.click()


def play(page, css):
    """Press Play on the panel `css` and wait until its models train."""
    click(page, ".moeviz-play")
    wait_status(page, css, "Training.")


def picture(page, css=""):
    """Return the HTML inside the first picture of the panel `css` (of the page by default)."""
    return page.locator(f"{css} {PICTURE} .widget-html-content").first.inner_html()


def wait_for_change(page, before, css="", timeout=PATIENCE):
    """Wait until the picture of the panel `css` differs from `before`; return the new one."""
    arg = [f"{css} {PICTURE} .widget-html-content", before]
    test = "([css, old]) => (document.querySelector(css)?.innerHTML ?? old) !== old"
    page.wait_for_function(test, arg=arg, timeout=timeout * 1000)
    return picture(page, css)


def state(page, css):
    """Return what the picture of the panel `css` shows, from its own data-state."""
    text = page.locator(f"{css} .mv[data-state]").first.get_attribute("data-state")
    return dict(part.partition("=")[::2] for part in text.partition("?")[2].split("&"))


def state_string(page, css):
    """Return the state string of the panel `css`, when it is that of the picture."""
    box = f"{css} .moeviz-state input"
    page.wait_for_function(
        "([picture, box]) => { const value = document.querySelector(box)?.value;"
        " return value && document.querySelector(picture)?.dataset.state.startsWith(value) }",
        arg=[f"{css} .mv[data-state]", box],
    )
    return page.locator(box).first.input_value()


def wait_state(page, css, pattern, timeout=PATIENCE):
    """Wait until the regular expression is found in the data-state of the panel `css`."""
    page.wait_for_function(
        "([css, wanted]) => RegExp(wanted).test("
        "document.querySelector(css + ' .mv[data-state]')?.dataset.state ?? '')",
        arg=[css, pattern],
        timeout=timeout * 1000,
    )


def wait_status(page, css, words, timeout=PATIENCE):
    """Wait until the panel `css` says the words."""
    page.locator(f"{css} .moeviz-status", has_text=words).wait_for(timeout=timeout * 1000)
