"""What holds for all tests."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell; many tests interrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)
