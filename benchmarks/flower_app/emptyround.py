"""Flower's empty round: a 4 kB model, two nodes, no training, no evaluation on the nodes."""

import time

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

__all__ = ["client", "main", "server", "train"]

server = ServerApp()
client = ClientApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Send the model back."""
    del context
    metrics = MetricRecord({"num-examples": 1})
    reply = RecordDict({"arrays": message.content["arrays"], "metrics": metrics})
    return Message(content=reply, reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds; print a line, with the time in s, before the first and after each."""

    def note(server_round: int, arrays: ArrayRecord) -> None:
        del arrays
        print(f"ROUND-CLOSED {server_round} {time.perf_counter()}", flush=True)

    FedAvg(fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=2).start(
        grid,
        ArrayRecord([np.zeros(1000, np.float32)]),
        num_rounds=int(context.run_config["rounds"]),
        evaluate_fn=note,
    )
