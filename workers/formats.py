"""Names by which files of a model are told before a byte of them is there. What is there is told by its content."""

LOADABLE = frozenset({".safetensors", ".gguf"})
CODE = frozenset(
    (
        *(".py", ".pyc", ".pyd", ".ipynb", ".so", ".dll", ".dylib", ".sh", ".bat", ".ps1", ".exe"),
        *(".jar", ".wasm", ".js"),
    )
)
TORCH = frozenset({".bin", ".pt", ".pth", ".ckpt"})
"""Pickles that the torch runner can read with `weights_only=True`; no other can be allowed."""
PICKLES = TORCH | {
    *(".pkl", ".pickle", ".joblib", ".dill", ".npy", ".npz"),
    *(".keras", ".nemo", ".mar", ".pdparams"),
}
ARCHIVES = frozenset({".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"})
