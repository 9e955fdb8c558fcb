"""Training episodes: demonstrations and queries for meta-training, sampled once and kept.

Every method is finetuned on the same ones. Each task has its own random generator, seeded by what
it is for, so that a task added to a list changes nothing for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mend.atomic_io import write_parquet
from mend.configuration.specs.training_episodes import TrainingEpisodesSpec
from mend.data.layout import META_TRAIN_SEED, Row
from mend.data.seeding import generator
from mend.data.tasks import count_rows, labels_of, load_rows, row_lists
from mend.errors import UserError
from mend.progress import Progress
from mend.provenance import checksums


def write_training_episodes(
    spec: TrainingEpisodesSpec, tasks_folder: str | Path, output: str | Path
) -> None:
    """Sample the episodes of meta-training and write them to Parquet, in training order.

    An episode is a task, then `shots` demonstrations and `queries_per_episode` queries: distinct
    rows of the task's meta_train split, in random order (paper, section 3.3). The n-th episode of a
    task has the same rows whatever other tasks there are. Columns: episode, task,
    demonstrations and queries (row numbers), and label_names: what the task's labels, in
    alphabetical order, are called in this episode; nothing if they have their own names.

    Args:
        spec: whose episodes, and how many.
        tasks_folder: the folder of `tasks.import_tasks`.
        output: the Parquet file.

    Raises:
        UserError: naming a task with fewer rows than an episode needs, or without a file.
    """
    import numpy
    import pyarrow

    shots, queries, seed = spec.shots, spec.queries_per_episode, spec.seed
    names = sorted(set(spec.tasks))  # so that the order of the list changes nothing
    if not names:
        raise UserError("training episodes: the list of tasks is empty")
    sizes = [
        count_rows(tasks_folder, name).get(("meta_train", META_TRAIN_SEED), 0) for name in names
    ]
    for name, size in zip(names, sizes, strict=True):
        if size < shots + queries:
            raise UserError(
                f"{Path(tasks_folder) / name}.parquet: task {name} has {size} meta-train rows, "
                f"fewer than an episode's {shots} demonstrations and {queries} queries"
            )
    weights = numpy.array(sizes if spec.task_sampling == "proportional" else [1] * len(sizes))
    chosen = generator(seed, "tasks").choice(
        len(names), size=spec.episodes, p=weights / weights.sum()
    )
    generators = [generator(seed, "meta_train", name) for name in names]
    rows = numpy.empty((len(chosen), shots + queries), dtype=numpy.int32)
    progress = Progress("episodes", len(chosen))
    for episode, task in enumerate(chosen):
        rows[episode] = generators[task].choice(sizes[task], shots + queries, replace=False)
        progress.update(episode + 1)
    label_names = _label_names(spec, [names[task] for task in chosen], tasks_folder)
    columns = {
        "episode": pyarrow.array(numpy.arange(len(chosen), dtype=numpy.int32)),
        "task": pyarrow.array([names[task] for task in chosen], pyarrow.string()),
        "demonstrations": row_lists(rows[:, :shots]),
        "queries": row_lists(rows[:, shots:]),
        "label_names": pyarrow.array(label_names, pyarrow.list_(pyarrow.string())),
    }
    files = [Path(tasks_folder) / f"{name}.parquet" for name in names]
    write_parquet(pyarrow.table(columns), output, checksums(files, output))


def _label_names(
    spec: TrainingEpisodesSpec, tasks: Sequence[str], tasks_folder: str | Path
) -> list[list[str]]:
    """Return the other names that labels have in each episode of these tasks, if they have any."""
    if spec.label_names is None:
        return [[]] * len(tasks)
    shuffled, replaced = spec.label_names.shuffled, spec.label_names.replaced
    own: dict[str, tuple[list[str], list[str]]] = {}
    generators = {name: generator(spec.seed, "label_names", name) for name in set(tasks)}
    found = []
    for name in tasks:
        if name not in own:
            own[name] = _labels_and_words(load_rows(tasks_folder, name).rows("meta_train"))
        (labels, words), random = own[name], generators[name]
        chance = random.random()
        if not labels or chance >= shuffled + replaced:
            found.append([])
        elif chance < shuffled or len(words) < len(labels):
            found.append(random.permutation(labels).tolist())
        else:
            found.append(random.choice(words, len(labels), replace=False).tolist())
    return found


def _labels_and_words(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Return a task's labels and the other words of its inputs."""
    labels = labels_of(rows)
    words = {word for row in rows for word in row.input.split() if word.isalpha()}
    return labels, sorted(words - set(labels))
