"""To and from a hub of models by ``huggingface_hub``; whatever happens there is one line here."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..files import beside, cache_folder
from ..train import CheckpointError
from ..train.checkpoint import CONFIG, GRIDS, MODEL, STATE, SUMS

FILES = (CONFIG, STATE, SUMS, MODEL, GRIDS, "README.md")
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def download(
    repo_id: str,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | None = None,
) -> Path:
    """The folder of a model of a hub, fetched unless it is in the cache.

    The files that the library keeps are links to contents by their hash; a checkpoint is a folder of plain files, so
    they are put (as hard links, where the disk has them) beside that cache.

    Arguments:
        repo_id: ``owner/name``.
        revision: A branch, tag or commit; the main branch by default.
        cache_dir: Where downloads are kept, by default where ``huggingface_hub`` keeps them.
        local_files_only: Ask nobody: take what was fetched before. So does the environment variable ``HF_HUB_OFFLINE``.
        token: Of a private model; by default the one that ``hf auth login`` keeps.
    Raises: CheckpointError in one line if there is no such model of this package, or nobody to ask.
    """
    from huggingface_hub import snapshot_download

    check_name(repo_id)
    with one_line(repo_id, revision):
        found = Path(
            snapshot_download(
                repo_id,
                revision=revision,
                cache_dir=None if cache_dir is None else Path(cache_dir),
                local_files_only=local_files_only,
                token=token,
                allow_patterns=list(FILES),
                library_name="flowmaps",
            )
        )
    missing = [name for name in (CONFIG, STATE, SUMS, MODEL) if not (found / name).is_file()]
    if missing:
        raise CheckpointError(f"{repo_id} has no {', '.join(missing)}; it is no model that flowmaps wrote")
    root = cache_folder() / "hub" if cache_dir is None else Path(cache_dir).expanduser() / "flowmaps"
    return _plain(found, root / repo_id.replace("/", "--") / found.name / repo_id.split("/")[1])


def upload(folder: Path, repo_id: str, revision: str | None, private: bool, message: str, token: str | None) -> str:
    """Put the files of a folder into a repository of a hub, which is made if it is not there.

    Returns: where to see it.
    Raises: CheckpointError in one line, as :func:`download` does.
    """
    from huggingface_hub import HfApi

    check_name(repo_id)
    api = HfApi(token=token, library_name="flowmaps")
    with one_line(repo_id, None):
        place = api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message)
    return str(place)


def check_name(repo_id: str) -> None:
    """Refuse what is no name of a repository.

    Raises: ValueError saying what one looks like.
    """
    if not NAME.fullmatch(repo_id):
        raise ValueError(f"{repo_id!r} is no model of a hub, expected owner/name, such as alice/my-molecules")


@contextmanager
def one_line(repo_id: str, revision: str | None) -> Iterator[None]:
    """Errors of the library as lines that name the remedy."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    try:
        yield
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{repo_id} asks for consent; give it at {hub}/{repo_id}, then `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        remedy = "check the name; a private one needs `hf auth login` or a token"
        raise CheckpointError(f"there is no model {repo_id} at {hub}; {remedy}") from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{repo_id} has no revision {revision!r}; leave it out for the newest") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        remedy = "go online once (no HF_HUB_OFFLINE, no local_files_only), or give a folder"
        raise CheckpointError(f"{repo_id} was not fetched before, and {hub} was not asked or not reached; {remedy}") from error  # fmt: skip  # noqa: E501
    except errors.HfHubHTTPError as error:
        said = " ".join(str(error).split())[:200]
        code = error.response.status_code
        remedy = "`hf auth login` with a token that may write" if code in (401, 403) else "try again later"
        raise CheckpointError(f"{hub} answered {code} about {repo_id} ({said}); {remedy}") from error
    except (OSError, errors.HTTPError) as error:
        said = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{hub} cannot be reached ({said}); check the connection, or HF_ENDPOINT") from error


def _plain(found: Path, place: Path) -> Path:
    """The files of a snapshot as plain files, all of them or none."""
    if place.is_dir() and {path.name for path in place.iterdir()} >= {path.name for path in found.iterdir()}:
        return place
    temporary = beside(place)
    temporary.mkdir(parents=True, exist_ok=True)
    try:
        for name in FILES:
            if (found / name).is_file():
                _link((found / name).resolve(), temporary / name)
        shutil.rmtree(place, ignore_errors=True)
        with suppress(FileExistsError):
            temporary.rename(place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return place


def _link(source: Path, place: Path) -> None:
    place.unlink(missing_ok=True)
    try:
        os.link(source, place)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, place)
