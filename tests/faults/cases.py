"""The list of cases that must each have a test, in a few words, and which tests name them."""

import ast
from pathlib import Path

from tests.faults.matrix import CELLS

TESTS = Path(__file__).parents[1]

CASES: dict[str, str] = {
    "A-1": "bodies that are no object",
    "A-2": "bodies of fifty megabytes, or without a length",
    "A-3": "bodies of another kind",
    "A-4": "half a character",
    "A-5": "NUL in a text",
    "A-6": "numbers that are none",
    "A-7": "numbers that are too large, or of another kind",
    "A-8": "levels without end",
    "A-9": "fields that nobody knows",
    "A-10": "a key twice",
    "A-11": "other encodings",
    "A-12": "names that forge a line or turn the text",
    "A-13": "ranges without number",
    "A-14": "a compressed body",
    "A-15": "headers and queries without measure",
    "A-16": "headers and bodies that do not end",
    "A-17": "requests that two servers read differently",
    "A-18": "the same ask twice",
    "A-19": "pages, cursors and filters that are none",
    "A-20": "names and ids that are paths",
    "A-21": "ids of no model",
    "A-22": "actions on ids that are paths",
    "A-23": "a scan outside the scan roots",
    "A-24": "links, pipes and devices among the files",
    "A-25": "a folder swapped for a link on the way",
    "A-26": "a registry row that points elsewhere",
    "A-27": "URLs of private and local hosts",
    "A-28": "schemes that are none",
    "A-29": "other spellings of an address",
    "A-30": "IPv4 wrapped in IPv6",
    "A-31": "URLs that parsers disagree about",
    "A-32": "redirects to where one may not go",
    "A-33": "an Ollama name with a host",
    "A-34": "errors that tell of inner servers",
    "A-35": "names that change their address",
    "A-36": "a file name of the server's choice",
    "A-37": "a repository's file names",
    "A-38": "digests of Ollama that are none",
    "A-39": "manifests of Ollama that are none",
    "A-40": "a page or a pointer in place of weights",
    "A-41": "archives that leave their folder",
    "A-42": "bombs in archives",
    "A-43": "an honest cache of the Hub",
    "A-44": "a file or link planted in staging",
    "A-45": "a repository without end",
    "A-46": "a repository that moves meanwhile",
    "A-47": "gated, private, and busy sources",
    "A-48": "more than the disk holds",
    "A-49": "bodies shorter than told",
    "A-50": "bodies longer than told",
    "A-51": "no length",
    "A-52": "ranges ignored",
    "A-53": "ranges that are wrong",
    "A-54": "content that changes between attempts",
    "A-55": "a tag that lies",
    "A-56": "a partial longer than the file",
    "A-57": "HEAD that differs or fails",
    "A-58": "compressed bodies",
    "A-59": "answers that are no HTTP",
    "A-60": "redirects without end",
    "A-61": "a byte now and then",
    "A-62": "a body without end",
    "A-63": "certificates that do not hold",
    "A-64": "a reset every megabyte",
    "A-65": "a server that does not hang up",
    "A-66": "damaged safetensors",
    "A-67": "a safetensors header that is too long",
    "A-68": "a tensor's name twice",
    "A-69": "tensors without number",
    "A-70": "damaged GGUF",
    "A-71": "GGUF tensors beyond the file",
    "A-72": "GGUF that only its program minds",
    "A-73": "parts of a GGUF that are missing",
    "A-74": "hostile chat templates",
    "A-75": "settings that ask for code",
    "A-76": "code among the files",
    "A-77": "pickles",
    "A-78": "pickles in disguise",
    "A-79": "endings and indexes that lie",
    "A-80": "a torch below the floor",
    "A-81": "messages in pickle, YAML or msgpack",
    "A-82": "tasks nobody knows, messages of other applications",
    "A-83": "a JSON body that is no task",
    "A-84": "garbage pushed into the queue",
    "A-85": "a known task with arguments that do not fit",
    "A-86": "callbacks and chains smuggled into a message",
    "A-87": "forged results in the backend",
    "A-88": "a Redis client that is not let in",
    "A-89": "forged events on our channel",
    "A-90": "a runner asked without its key, or from elsewhere",
    "A-91": "fields that a runner must not be told",
    "A-92": "somebody else on the runner's port",
    "F-1": "worker killed before it claims",
    "F-2": "worker killed in the middle of a download",
    "F-3": "worker killed after the last byte",
    "F-4": "worker killed while it verifies",
    "F-5": "worker killed between the rename and the row",
    "F-6": "worker killed between the commit and the event",
    "F-7": "worker killed while it loads a model",
    "F-8": "worker killed at each step of a swap",
    "F-9": "worker killed while it removes or cleans up",
    "F-10": "API killed after the commit, before the message",
    "F-11": "API killed after the message, before the answer",
    "F-12": "power lost",
    "F-13": "a job that kills every worker it meets",
    "F-14": "Redis restarts",
    "F-15": "Redis loses all its data",
    "F-16": "Redis is down for long",
    "F-17": "network between a process and Redis: cut, slow, half open",
    "F-18": "Redis is full",
    "F-19": "a subscriber is disconnected",
    "F-20": "events twice, missing, out of order",
    "F-21": "Redis fails over, or refuses the password",
    "F-22": "two beats at once",
    "F-23": "one message delivered to two workers",
    "F-24": "a worker that was frozen past its lease",
    "F-25": "a job longer than the broker's visibility timeout",
    "F-26": "SIGTERM at every stage",
    "F-27": "cancel at every stage, twice, and against the end",
    "F-28": "priority against a long queue",
    "F-29": "old and new versions side by side",
    "F-36": "a disk that fills up, or refuses",
    "F-37": "workers that fork beside a driver",
    "F-38": "a worker killed with a live runner, or a loading one",
    "F-39": "a runner that outlived its worker",
    "F-40": "a runner's number that somebody else has by now",
    "F-41": "memory that comes back late",
    "F-42": "not enough memory",
    "F-43": "a device that breaks",
    "F-44": "NVML missing or broken",
    "F-45": "a runner that crashes, hangs, lies or floods",
    "F-46": "two who load the same model",
    "F-47": "a swap whose new model fails",
    "F-48": "a model that answers badly, slowly, or by turns",
    "F-50": "a removal or a cleanup against everything else on the model",
    "F-51": "removing what is in use, or removing twice",
    "F-52": "adding again what is being removed",
    "F-53": "two models that share files",
    "F-54": "a crash in the middle of writing the registry",
    "F-55": "the same request fifty times at once",
    "F-56": "several API processes",
    "F-57": "files that change after they were published",
    "F-58": "a store or folder whose disk is away",
}


def covered() -> dict[str, list[str]]:
    """Every case with the tests that name it, `<file>::<test>`; the matrix names them per point and fault."""
    found: dict[str, set[str]] = {}
    for cell in CELLS:
        for case in cell.ids:
            found.setdefault(case, set()).add("faults/test_matrix.py")
    for path in sorted(TESTS.rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                for case in _named(node):
                    found.setdefault(case, set()).add(f"{path.relative_to(TESTS)}::{node.name}")
    return {case: sorted(tests) for case, tests in found.items()}


def _named(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> list[str]:
    """Arguments of `@pytest.mark.fault(…)` on a test or a class of tests."""
    return [
        str(argument.value)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.fault"
        for argument in decorator.args
        if isinstance(argument, ast.Constant)
    ]
