"""Makes the data of gpu/run.mjs on its device, where a hundred times as many rows a second come about as by ts/src/bench/data.ts. Rows lie as that
file says, drawn by torch: for one device and version of torch a seed gives the same ones.

The argument is JSON: device, seed, spectrum, dim, kind, `files`, .npy files by name that are all made, and what the kind asks for:

    rows    `rows`, how many consecutive rows of one source a file has by name; `dtype`; `centres` a problem and `batch`, how many problems
            the rows are of, for a file `centres` of rows at equal distances
    batch   `batch`, `clusters`: the teacher's rows and the centres are originals, the text of a pair is its image and as much of another
            row, and a student's row is the teacher's and as much of another; labels are nearest centres
"""

import json
import os
import sys

import numpy as np
import torch

job = json.loads(sys.argv[1])
device = torch.device(job["device"])
dim = job["dim"]
draws = torch.Generator(device).manual_seed(job["seed"])
LEAST_COSINE = 0.85
TURN = 1 << 18  # rows made at once


def normal(*shape):
    return torch.randn(*shape, generator=draws, device=device)


def unit(rows):
    return torch.nn.functional.normalize(rows, dim=1)


def source(count, copies):
    """`count` unit rows, of which a share are moved copies of rows some turns before."""
    scale = torch.arange(1, dim + 1, device=device) ** -0.5
    basis = torch.linalg.qr(normal(dim, dim))[0]
    mean = unit(normal(1, dim)) * scale.norm() / 2
    rows = torch.empty(count, dim, device=device)
    begin = 0
    while begin < count:
        # As many as there are, so that copies begin early.
        length = min(TURN, max(begin, 32), count - begin)
        drawn = normal(length, dim)
        made = unit((drawn * scale) @ basis + mean) if job["spectrum"] == "decaying" else unit(drawn)
        if begin > 0 and copies > 0:
            which = (torch.rand(length, generator=draws, device=device) < copies).nonzero().flatten()
            originals = rows[torch.randint(begin, (len(which),), generator=draws, device=device)]
            cosine = LEAST_COSINE + (1 - LEAST_COSINE) * torch.rand(len(which), 1, generator=draws, device=device)
            noise = normal(len(which), dim)
            noise = unit(noise - (noise * originals).sum(1, keepdim=True) * originals)
            made[which] = cosine * originals + (1 - cosine**2).sqrt() * noise
        rows[begin : begin + length] = made
        begin += length
    return rows


def write(name, values, dtype=None):
    """Whole or not at all; a turn of rows at a time goes through the host."""
    path = job["files"][name]
    part = f"{path}.{os.getpid()}"
    kind = {"float32": np.float32, "float16": np.float16, "int32": np.int32}[dtype or "float32"]
    out = np.lib.format.open_memmap(part, mode="w+", dtype=kind, shape=tuple(values.shape))
    for begin in range(0, len(values), TURN):
        out[begin : begin + TURN] = values[begin : begin + TURN].cpu().numpy()
    out.flush()
    del out
    os.rename(part, path)


def write_rows():
    rows = source(sum(job["rows"].values()), 0.3)
    begin = 0
    for name, count in job["rows"].items():
        write(name, rows[begin : begin + count], job.get("dtype"))
        begin += count
    if "centres" in job:
        problems = rows[: job["rows"]["rows"]].reshape(job["batch"], -1, dim)
        places = torch.arange(job["centres"], device=device) * problems.shape[1] // job["centres"]
        write("centres", problems[:, places].reshape(-1, dim))


def write_batch():
    batch, clusters = job["batch"], job["clusters"]
    rows = source(4 * batch + clusters, 0)
    teacher, other, of_image, of_text, centroids = rows.split([batch] * 4 + [clusters])
    text = unit(teacher + other)
    labels = torch.cat([(part @ centroids.T).argmax(1) for part in teacher.split(512)])
    made = {
        "image": teacher + of_image,
        "text": text + of_text,
        "teacherImage": teacher,
        "teacherText": text,
        "centroids": centroids,
    }
    for name, values in made.items():
        write(name, values)
    write("labels", labels, "int32")


{"rows": write_rows, "batch": write_batch}[job["kind"]]()
