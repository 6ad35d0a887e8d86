#!/usr/bin/env python
"""torchrun that does not restart what would only fail again, and that exits as the tool did.

    python tools/launch.py [options of torchrun] tools/train.py CONFIG --launcher pytorch

Exit status 2: a mistake of the user's; 75: a signal ended the run, which is saved; 130: Ctrl-C ended it. Any other
status, or 128 + n for signal n, is that of the process that died first once all restarts were used up.
"""
import sys
from typing import Optional, Sequence

from torch.distributed import run
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher import api

FINAL = MISTAKE, INTERRUPTED, CTRL_C = 2, 75, 130  # as tools/train.py exits; nothing is restarted after these
PRIVATE = '_monitor_workers', '_remaining_restarts', '_shutdown', '_pcontext'  # of torchrun's agent, used by ours


class Agent(LocalElasticAgent):
    """What torchrun starts and watches the processes of a machine with."""

    def _monitor_workers(self, *args, **kwargs):
        result = super()._monitor_workers(*args, **kwargs)
        if any(failure.exitcode in FINAL for failure in result.failures.values()):
            self._remaining_restarts = 0  # as PyTorch itself does for a process that cannot be started again
        return result

    def _shutdown(self, *args, **kwargs):
        super()._shutdown(*args, **kwargs)
        processes = getattr(self._pcontext, 'subprocess_handlers', {}).values()
        if processes and all(process.proc.returncode == INTERRUPTED for process in processes):
            sys.exit(INTERRUPTED)  # a signal to this process, which it has passed on to them


def make_agent(*args, **kwargs) -> LocalElasticAgent:
    """Our agent, or torchrun's own where a private name that ours needs is gone."""
    agent = LocalElasticAgent(*args, **kwargs)
    missing = [name for name in PRIVATE if not hasattr(agent, name)]
    if missing:
        warn_of_plain_torchrun(missing)
    else:
        agent.__class__ = Agent
    return agent


def warn_of_plain_torchrun(missing: Sequence[str]) -> None:
    print(f'warning: this PyTorch has no {", ".join(missing)}, so plain torchrun starts the processes. It restarts '
          'them even after an error in your config or command', file=sys.stderr)


def main(arguments: Optional[Sequence[str]] = None) -> None:
    if hasattr(api, 'LocalElasticAgent'):
        api.LocalElasticAgent = make_agent
    else:
        warn_of_plain_torchrun(['LocalElasticAgent in torch.distributed.launcher.api'])
    try:
        run.main(arguments)
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        if status not in FINAL:
            print(error, file=sys.stderr)
        sys.exit(status if status >= 0 else 128 - status)
    except SignalException as signal:
        sys.exit(128 + signal.sigval)


if __name__ == '__main__':
    main()
