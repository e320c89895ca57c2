from tests.support.own_machine import own_machine, pytest_pyfunc_call

__all__ = ["own_machine", "pytest_pyfunc_call"]
