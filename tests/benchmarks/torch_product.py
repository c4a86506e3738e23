"""Products a second of PyTorch's float32 matrix product on one thread; kernel_profile.py's peer.

python torch_product.py ROUNDS; answers a line of JSON, in 1e9 a second of the processor.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import torch

COLUMNS, OUTPUTS, TIMES = 768, 768, 20


def main() -> None:
    torch.set_num_threads(1)
    figures = {}
    weights = torch.randn(OUTPUTS, COLUMNS)
    for rows in (1, 16, 128):
        x, paces = torch.randn(rows, COLUMNS), []
        for _ in range(int(sys.argv[1]) + 1):
            start = time.process_time()
            for _ in range(TIMES):
                torch.nn.functional.linear(x, weights)
            paces.append(TIMES * rows * COLUMNS * OUTPUTS / (time.process_time() - start) / 1e9)
        figures[str(rows)] = statistics.median(paces[1:])
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
