"""What the event loop calls when a socket is readable."""


cdef class Reader:
    """A callback of the event loop: `serve` without a step through Python."""

    cdef Processor processor
    cdef int fd
    cdef object clock, otherwise

    def __init__(self, Processor processor, int fd, clock, otherwise):
        self.processor, self.fd, self.clock, self.otherwise = processor, fd, clock, otherwise

    def __call__(self):
        cdef int outcome
        try:
            outcome = self.processor.serve(self.fd, self.clock)
        except Exception:
            self.otherwise(FAILED)
            return
        if outcome != SENT:
            self.otherwise(outcome)
