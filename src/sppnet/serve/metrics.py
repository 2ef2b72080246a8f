"""What a server counts, in the text format of Prometheus."""

from collections import Counter


class Counts:
    """Requests by path and status, and the time of each stage."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.images = 0
        self.stage_seconds: Counter[str] = Counter()

    def add_request(self, path: str, status: int) -> None:
        self.requests[path, status] += 1

    def add_image(self, ms: dict[str, float]) -> None:
        self.images += 1
        for stage, spent in ms.items():
            self.stage_seconds[stage] += spent / 1e3  # type: ignore[assignment]

    def text(self, gauges: dict[str, int]) -> str:
        """gauges: what is so at this moment, by name."""
        lines = ["# TYPE sppnet_requests_total counter"]
        lines += [
            f'sppnet_requests_total{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(self.requests.items())
        ]
        lines += ["# TYPE sppnet_images_total counter", f"sppnet_images_total {self.images}"]
        lines += ["# TYPE sppnet_stage_seconds_total counter"]
        lines += [
            f'sppnet_stage_seconds_total{{stage="{stage}"}} {spent:.6f}'
            for stage, spent in sorted(self.stage_seconds.items())
        ]
        for name, value in gauges.items():
            lines += [f"# TYPE sppnet_{name} gauge", f"sppnet_{name} {value}"]
        return "\n".join(lines) + "\n"
