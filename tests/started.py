"""Work of a study that starts a process, which imports nothing itself."""

import multiprocessing
import sys


class Starts:
    """Starts a process as a loader starts its workers, and tells what that had imported when it began."""

    def do(self) -> list[str]:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.Process(target=tell, args=(sender,))
        process.start()
        imported = receiver.recv()
        process.join()
        return imported


def tell(sender) -> None:
    sender.send([name for name in ("torch", "stimulative.data", "timm") if name in sys.modules])
