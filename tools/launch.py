#!/usr/bin/env python
"""torchrun that starts nothing again that would only fail again, and that exits as the tool did.

    python tools/launch.py [options of torchrun] tools/train.py CONFIG --launcher pytorch

Exit status 2: a mistake of the user's; 75: a signal ended the run, which is saved; another one, or that of a signal
(128 + n): what a process died of once all restarts were used up.
"""
import sys

from torch.distributed import run
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher import api

MISTAKE, INTERRUPTED = 2, 75  # as tools/train.py exits


class Agent(LocalElasticAgent):
    """What torchrun starts and watches the processes of a machine with."""

    def _monitor_workers(self, group):
        result = super()._monitor_workers(group)
        if any(failure.exitcode in (MISTAKE, INTERRUPTED) for failure in result.failures.values()):
            self._remaining_restarts = 0  # as PyTorch itself does for a process that cannot be started again
        return result

    def _shutdown(self, *args, **kwargs):
        super()._shutdown(*args, **kwargs)
        processes = self._pcontext.subprocess_handlers.values() if self._pcontext else ()
        if processes and all(process.proc.returncode == INTERRUPTED for process in processes):
            sys.exit(INTERRUPTED)  # a signal to this process, which it has passed on to them


if __name__ == '__main__':
    api.LocalElasticAgent = Agent
    try:
        run.main()
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        if status not in (MISTAKE, INTERRUPTED):
            print(error, file=sys.stderr)
        sys.exit(status if status >= 0 else 128 - status)
