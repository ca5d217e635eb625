"""Stands in for vLLM: a front process with a child in another process group, GET /health, /metrics and a reset route.

Arguments: PORT [MODE]; modes: `dies` (fails like vLLM does), `stubborn` (ignores requests to stop).
"""

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

METRICS = """# TYPE vllm:prefix_cache_hits counter
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 32.0
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 1.0
"""


class Handler(BaseHTTPRequestHandler):
    n_resets = 0

    def answer(self, code: int, body: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_GET(self) -> None:
        self.answer(200, METRICS if self.path == "/metrics" else "")

    def do_POST(self) -> None:
        if self.path != "/reset_prefix_cache?reset_external=true" or "VLLM_SERVER_DEV_MODE" not in os.environ:
            self.answer(404, "")
            return
        Handler.n_resets += 1
        self.answer(200, json.dumps({"success": Handler.n_resets > 1}))

    def log_message(self, format: str, *arguments: object) -> None:
        pass


port, mode = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "serves"
if mode == "dies":
    print("(EngineCore pid=1) ValueError: the real cause", *["and another line"] * 40, "the last line", sep="\n")
    sys.exit(3)
sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
worker = subprocess.Popen(sleeper, process_group=0)
server = ThreadingHTTPServer(("127.0.0.1", port), Handler)


def stop(number: int, _frame: object) -> None:
    if mode != "stubborn":
        worker.kill()
        threading.Thread(target=server.shutdown).start()


signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
print(f"worker {worker.pid}", flush=True)
server.serve_forever()
