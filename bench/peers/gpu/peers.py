"""The peers' side of gpu/run.mjs: one peer doing one work on a device of torch, in a process that stays.

The first argument is JSON: peer, op, torch's device, the work's parameters, `vendor`, a folder with packages in plain Python, and `files`, .npy
files by name, which are on the device before anything is timed. Then one command a line on standard input, one line of JSON as the answer:

    warm        a small part of the work and the whole of it, untimed: kernels are compiled and tuned, libraries allocate what they keep
    run         the whole work until the device has done it: seconds, processor time, and extra_mb, the peak of what torch has allocated over that
                before the call less the result itself (None on the CPU)
    save DIR    the last result as .npy files

With `probe` in place of a peer: says of each of the peers why it cannot be had, null where it can, and ends.

Rows are unit vectors already and no peer is asked to normalise what it gets as such. Sizes of blocks are those that keep a GPU busy by their
arithmetic; none of them has been tuned on one.
"""

import importlib
import json
import sys
import time

import numpy as np

job = json.loads(sys.argv[1])
sys.path.insert(0, job["vendor"])


def import_from(module, *names):
    """What a peer's package has of these names, first found; its name alone says that it is missing."""
    found = importlib.import_module(module)
    for name in names:
        if hasattr(found, name):
            return getattr(found, name)
    raise ImportError(f"{module} has no {' or '.join(names)}")


def compiled():
    import torch

    if not hasattr(torch, "compile"):
        raise ImportError(f"torch {torch.__version__} has no torch.compile")
    return torch.compile


def linear_cross_entropy():
    return import_from("cut_cross_entropy", "linear_cross_entropy")


NEEDS = {
    "torch": lambda: None,
    "torch-tf32": lambda: None,
    "torch-bf16": lambda: None,
    "torch-compile": compiled,
    "flash-kmeans": lambda: import_from("flash_kmeans", "batch_kmeans_Euclid"),
    "flashlib": lambda: import_from("flashlib", "flash_kmeans"),
    "liger": lambda: import_from("liger_kernel.transformers", "LigerFusedLinearCrossEntropyLoss"),
    "cut-cross-entropy": linear_cross_entropy,
    "inf-cl": lambda: import_from("inf_cl", "cal_flash_loss"),
}


def probe():
    reasons = {}
    try:
        import torch
    except ImportError as error:
        return {peer: str(error) for peer in NEEDS}
    gpu = job["device"].startswith("cuda")
    if gpu and not torch.cuda.is_available():
        return {peer: f"torch {torch.__version__} finds no CUDA device" for peer in NEEDS}
    for peer, need in NEEDS.items():
        reasons[peer] = None
        try:
            if peer == "torch-tf32" and not gpu:
                raise ValueError("there is no TF32 without a GPU")
            need()
        except Exception as error:  # A package that is there and does not load is as good as missing, and says why.
            reasons[peer] = f"{type(error).__name__}: {error}".splitlines()[0]
    return reasons


if job["peer"] == "probe":
    print(json.dumps(probe()))
    sys.exit(0)

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

device = torch.device(job["device"])
on_gpu = device.type == "cuda"
if on_gpu:
    # float32 is float32 unless the peer's name says otherwise.
    torch.backends.cuda.matmul.allow_tf32 = job["peer"] == "torch-tf32"
data = {name: torch.from_numpy(np.load(path)).to(device) for name, path in job["files"].items()}


def synchronise():
    if on_gpu:
        torch.cuda.synchronize()


def dedup(dtype=torch.float32, height=8192, width=16384):
    """Upper triangle in blocks: product, the rows that reach the threshold, their pairs."""
    stored, threshold = data["rows"], job["threshold"]

    def run(count=None):
        rows = stored[:count].to(dtype)
        n = len(rows)
        found = [torch.empty(0, 2, dtype=torch.int64, device=device)]
        for i in range(0, n, height):
            queries = rows[i : i + height]
            for j in range(i, n, width):
                block = queries @ rows[j : j + width].T
                hit = (block.amax(1) > threshold).nonzero().flatten()
                if len(hit) == 0:
                    continue
                pairs = (block[hit] > threshold).nonzero()
                pairs = torch.stack((hit[pairs[:, 0]] + i, pairs[:, 1] + j), 1)
                found.append(pairs[pairs[:, 0] < pairs[:, 1]])
        return {"pairs": torch.cat(found)}

    return run, lambda: run(4096)


def assign(rows, centres, height=16384):
    half = centres.square().sum(1) / 2
    return torch.cat([(part @ centres.T - half).argmax(1) for part in rows.split(height)])


def kmeans_torch():
    """Lloyd: blocks of products and their best centre, sums by index_add."""

    def run(rows=data["rows"], centres=data["centres"]):
        for _ in range(job["iterations"]):
            labels = assign(rows, centres)
            sums = torch.zeros_like(centres).index_add_(0, labels, rows)
            sizes = torch.bincount(labels, minlength=len(centres))
            centres = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], centres)
        # Ours returns the labels of the final centres too.
        return {"labels": assign(rows, centres).int(), "centres": centres}

    return run, lambda: run(data["rows"][:4096], data["centres"][:64])


def kmeans_of(function):
    """Packages that take [B, N, D] and begin from given centres. Their labels are those before the last update, and are made anew outside the clock."""

    def run(rows=data["rows"], centres=data["centres"]):
        out = function(rows[None], len(centres), max_iters=job["iterations"], tol=0.0, init_centroids=centres[None])
        return {"centres": out[1].reshape(-1, rows.shape[1])}

    return run, lambda: run(data["rows"][:4096], data["centres"][:64])


def nearest_torch(height=2048, width=131072):
    rows, asked, k = data["rows"], data["queries"], job["k"]

    def run(queries=asked):
        best = []
        for part in queries.split(height):
            value, index = [], []
            for j in range(0, len(rows), width):
                block = part @ rows[j : j + width].T
                top = block.topk(min(k, block.shape[1]), dim=1)
                value.append(top.values)
                index.append(top.indices + j)
            value, index = torch.cat(value, 1), torch.cat(index, 1)
            scores, order = value.topk(k, dim=1)
            best.append((scores, index.gather(1, order)))
        return {"scores": torch.cat([s for s, _ in best]), "indices": torch.cat([n for _, n in best])}

    return run, lambda: run(asked[:512])


def nearest_flashlib():
    """By squared distance, which orders unit rows as the cosine does."""
    knn = import_from("flashlib.primitives.knn", "flash_knn")

    def run(queries=data["queries"]):
        distances, indices = knn(queries, data["rows"], job["k"])
        return {"scores": 1 - distances / 2, "indices": indices}

    return run, lambda: run(data["queries"][:512])


def contrast(scores, targets):
    return (F.cross_entropy(scores, targets) + F.cross_entropy(scores.T, targets)) / 2


def loss_terms(i, t, teacher_image, teacher_text, centres, labels, targets, clip_scale, instance_scale):
    """As clusterInstanceLoss, with autograd; teacher and centres are unit rows already."""
    terms, tau = job["terms"], job["temperature"]
    i, t = F.normalize(i, dim=1), F.normalize(t, dim=1)
    loss = 0
    if terms in ("all", "contrast"):
        loss = contrast(clip_scale.exp() * i @ t.T, targets)
    if terms in ("all", "clusters"):
        log_q = (i @ centres.T / tau).log_softmax(1)
        loss = loss + F.nll_loss(log_q, labels)
    if terms == "all":
        with torch.no_grad():
            soft = (teacher_image @ centres.T / tau).softmax(1)
        loss = loss + F.kl_div(log_q, soft, reduction="batchmean")
        loss = loss + contrast(instance_scale.exp() * i @ teacher_image.T, targets) / 2
        loss = loss + contrast(instance_scale.exp() * t @ teacher_text.T, targets) / 2
    return loss


def loss_with(work):
    """work(image, text, count, scale) is a loss of raw embeddings, that gradients of both are asked of."""

    def run(count=None):
        image, text = (data[name][:count].clone().requires_grad_() for name in ("image", "text"))
        scales = [torch.tensor(job["scale"], device=device).log().requires_grad_() for _ in range(2)]
        loss = work(image, text, count, scales)
        loss.backward()
        result = {"total": loss.detach().float().reshape(1), "image": image.grad}
        if text.grad is not None:
            result["text"] = text.grad
        return result

    return run, lambda: run(64)


def loss_torch(compile_it=False):
    terms = compiled()(loss_terms) if compile_it else loss_terms
    labels = data["labels"].long()
    own = torch.arange(len(labels), device=device)

    def work(image, text, count, scales):
        teachers = data["teacherImage"][:count], data["teacherText"][:count]
        return terms(image, text, *teachers, data["centroids"], labels[:count], own[:count], *scales)

    return loss_with(work)


def loss_clusters(cross_entropy):
    """Cross-entropy over the centres by a package that multiplies too: cross_entropy(embeddings, centres, labels), in bfloat16 as they are used."""
    labels, centres = data["labels"].long(), data["centroids"].bfloat16()

    def work(image, text, count, scales):
        rows = (F.normalize(image, dim=1) / job["temperature"]).bfloat16()
        return cross_entropy(rows, centres, labels[:count])

    return loss_with(work)


def loss_liger():
    fused = import_from("liger_kernel.transformers", "LigerFusedLinearCrossEntropyLoss")()
    return loss_clusters(lambda rows, centres, labels: fused(centres, rows, labels))


def loss_cut():
    return loss_clusters(linear_cross_entropy())


def loss_inf():
    """One direction a call, so two calls; the scale is the package's to apply."""
    flash = import_from("inf_cl", "cal_flash_loss")

    def work(image, text, count, scales):
        i, t = F.normalize(image, dim=1), F.normalize(text, dim=1)
        scale = scales[0].exp()
        return (flash(i, t, scale=scale) + flash(t, i, scale=scale)) / 2

    return loss_with(work)


WORKS = {
    "torch": {"dedup": dedup, "kmeans": kmeans_torch, "nearest": nearest_torch, "loss": loss_torch},
    "torch-tf32": {"dedup": dedup, "kmeans": kmeans_torch, "nearest": nearest_torch},
    "torch-bf16": {"dedup": lambda: dedup(torch.bfloat16)},
    "torch-compile": {"loss": lambda: loss_torch(compile_it=True)},
    "flash-kmeans": {"kmeans": lambda: kmeans_of(NEEDS["flash-kmeans"]())},
    "flashlib": {"kmeans": lambda: kmeans_of(NEEDS["flashlib"]()), "nearest": nearest_flashlib},
    "liger": {"loss": loss_liger},
    "cut-cross-entropy": {"loss": loss_cut},
    "inf-cl": {"loss": loss_inf},
}


def answer(**fields):
    print(json.dumps(fields), flush=True)


run, warm = WORKS[job["peer"]][job["op"]]()
result = None
answer(ready=True)
for line in sys.stdin:
    command, _, argument = line.strip().partition(" ")
    if command == "warm":
        warm()
        run()
        synchronise()
        answer()
    elif command == "run":
        result = None
        synchronise()
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        start, busy = time.perf_counter(), time.process_time()
        result = run()
        synchronise()
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        extra = None
        if on_gpu:
            size = sum(value.nelement() * value.element_size() for value in result.values())
            extra = max(0, torch.cuda.max_memory_allocated() - before - size) / 1e6
        answer(seconds=seconds, cpu_s=busy, extra_mb=extra)
    elif command == "save":
        if job["op"] == "kmeans" and "labels" not in result:
            result["labels"] = assign(data["rows"], result["centres"].to(data["rows"].dtype)).int()
        for name, value in result.items():
            array = (value.float() if value.dtype == torch.bfloat16 else value).cpu().numpy()
            if array.dtype == np.int64:
                array = array.astype(np.int32)
            np.save(f"{argument}/{name}.npy", np.ascontiguousarray(array))
        answer()
