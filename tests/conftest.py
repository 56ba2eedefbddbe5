"""For all tests: only warnings are logged, so that what is printed is what failed."""

import structlog

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("warning"))
