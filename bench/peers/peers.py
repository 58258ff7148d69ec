"""The peers' side of run.mjs: one peer doing one work (side.py has the commands).

The job: peer, threads, the work's parameters, and `files`, .npy files by name, which are read before anything is timed. For training a run is
one step, and memory is counted over that before the model was built. Rows are unit vectors already and no peer is asked to normalise what it
gets as such.
"""

import gc

import numpy as np

from side import job, serve

threads = job["threads"]
data = {name: np.load(path) for name, path in job["files"].items()}


def torch_module():
    import torch

    torch.set_num_threads(threads)
    return torch


def dedup(dtype, height, width):
    """Upper triangle in tiles: product, the rows that reach the threshold, their pairs. Tile sizes are the best of those tried
    (512 to 4096 by 2048 to the whole; whole masks, an early test of the maximum, or rows first)."""
    torch = torch_module()
    stored = torch.from_numpy(data["rows"])
    threshold = job["threshold"]

    def run(count=None):
        rows = stored[:count].to(getattr(torch, dtype))
        n = len(rows)
        out = torch.empty(height * width, dtype=rows.dtype)
        found = []
        for i in range(0, n, height):
            queries = rows[i : i + height]
            for j in range(i, n, width):
                keys = rows[j : j + width]
                tile = out[: len(queries) * len(keys)].view(len(queries), len(keys))
                torch.mm(queries, keys.T, out=tile)
                hit = (tile.amax(1) > threshold).nonzero().flatten()
                if len(hit) == 0:
                    continue
                pairs = (tile[hit] > threshold).nonzero()
                pairs[:, 0] = hit[pairs[:, 0]] + i
                pairs[:, 1] += j
                found.append(pairs[pairs[:, 0] < pairs[:, 1]])
        return {"pairs": torch.cat(found)} if found else {"pairs": torch.empty(0, 2, dtype=torch.int64)}

    return run, lambda: run(4096)


def kmeans_sklearn():
    from sklearn.cluster import KMeans

    def run(rows=data["rows"], centres=data["centres"]):
        model = KMeans(
            len(centres), init=centres, n_init=1, max_iter=job["iterations"], tol=0, algorithm="lloyd"
        ).fit(rows)
        return {"labels": model.labels_, "centres": model.cluster_centers_}

    return run, lambda: run(data["rows"][:4096], data["centres"][:64])


def kmeans_faiss():
    import faiss

    faiss.omp_set_num_threads(threads)

    def run(rows=data["rows"], centres=data["centres"]):
        n, dim = rows.shape
        # No sampling of the rows, which is faiss' default beyond 256 a centre.
        model = faiss.Kmeans(dim, len(centres), niter=job["iterations"], nredo=1, max_points_per_centroid=n)
        model.train(rows, init_centroids=centres)
        # Training ends with an update; the others return labels of the final centres too.
        _, labels = model.index.search(rows, 1)
        return {"labels": labels[:, 0].astype(np.int32), "centres": model.centroids}

    return run, lambda: run(data["rows"][:4096], data["centres"][:64])


def nearest_faiss():
    import faiss

    faiss.omp_set_num_threads(threads)

    def run(queries=data["queries"]):
        # Exact search without an index, so that no copy of the rows is timed.
        scores, indices = faiss.knn(queries, data["rows"], job["k"], metric=faiss.METRIC_INNER_PRODUCT)
        return {"scores": scores, "indices": indices}

    return run, lambda: run(data["queries"][:512])


def nearest_torch(height, width):
    torch = torch_module()
    rows, asked = torch.from_numpy(data["rows"]), torch.from_numpy(data["queries"])

    def run(queries=asked):
        k = job["k"]
        scores = torch.empty(len(queries), k)
        indices = torch.empty(len(queries), k, dtype=torch.int64)
        for i in range(0, len(queries), height):
            part = queries[i : i + height]
            best = []
            for j in range(0, len(rows), width):
                value, index = (part @ rows[j : j + width].T).topk(k, dim=1)
                best.append((value, index + j))
            value = torch.cat([v for v, _ in best], 1)
            index = torch.cat([n for _, n in best], 1)
            scores[i : i + height], order = value.topk(k, dim=1)
            indices[i : i + height] = index.gather(1, order)
        return {"scores": scores, "indices": indices}

    return run, lambda: run(asked[:512])


def loss_torch():
    torch = torch_module()
    F = torch.nn.functional
    tensor = {name: torch.from_numpy(array) for name, array in data.items()}
    labels = tensor["labels"].long()
    own = torch.arange(len(labels))
    tau, scale = job["temperature"], job["scale"]

    def contrast(scores, targets):
        return (F.cross_entropy(scores, targets) + F.cross_entropy(scores.T, targets)) / 2

    def run(count=None):
        image, text = (tensor[name][:count].clone().requires_grad_() for name in ("image", "text"))
        teacher_image, teacher_text = tensor["teacherImage"][:count], tensor["teacherText"][:count]
        centres = tensor["centroids"]
        clip_scale, instance_scale = (torch.tensor(scale).log().requires_grad_() for _ in range(2))
        i, t = F.normalize(image, dim=1), F.normalize(text, dim=1)
        targets = own[:count]
        loss = contrast(clip_scale.exp() * i @ t.T, targets)
        logits = i @ centres.T / tau
        with torch.no_grad():
            soft = (teacher_image @ centres.T / tau).softmax(1)
        log_q = logits.log_softmax(1)
        loss = loss + F.nll_loss(log_q, labels[:count])
        loss = loss + F.kl_div(log_q, soft, reduction="batchmean")
        loss = loss + contrast(instance_scale.exp() * i @ teacher_image.T, targets) / 2
        loss = loss + contrast(instance_scale.exp() * t @ teacher_text.T, targets) / 2
        loss.backward()
        return {"total": loss.detach().reshape(1), "image": image.grad, "text": text.grad}

    return run, lambda: run(64)


def train_torch(channels_last=False, bfloat16=False):
    torch_module()
    from models import training

    global base
    base = memory()
    step = training(job, data, "cpu", channels_last, bfloat16)
    losses = []

    def run():
        losses.append(step())
        return {"losses": np.array(losses, np.float32)}

    return run, lambda: [run() for _ in range(job["warm"])]


PEERS = {
    "torch": {
        "train": train_torch,
        "dedup": lambda: dedup("float32", 2048, 2048),
        "nearest": lambda: nearest_torch(1024, 100_000),
        "loss": loss_torch,
    },
    "torch-channels-last": {"train": lambda: train_torch(channels_last=True)},
    "torch-bf16": {
        "train": lambda: train_torch(bfloat16=True),
        "dedup": lambda: dedup("bfloat16", 512, 2048),
    },
    "faiss": {"kmeans": kmeans_faiss, "nearest": nearest_faiss},
    "scikit-learn": {"kmeans": kmeans_sklearn},
}


def memory():
    """Resident memory now and at its highest since the last reset, in bytes; None where /proc does not say."""
    try:
        with open("/proc/self/status") as status:
            lines = dict(line.split(":", 1) for line in status)
        return [1024 * int(lines[name].split()[0]) for name in ("VmRSS", "VmHWM")]
    except (OSError, KeyError):
        return None


def reset_peak():
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        return True
    except OSError:
        return False


# Resident memory that the work's extra is counted from, where it is not what is there before a run.
base = None


def before():
    gc.collect()
    return memory() if reset_peak() else None


def after(start, size):
    now = memory()
    return None if start is None or now is None else max(0, now[1] - (base or start)[0] - size) / 1e6


serve(*PEERS[job["peer"]][job["op"]](), before, after)
