"""How soon Ray notices that a host is gone: variables for `ray start` on every node, and for drivers.

With these, a host that dies is noticed within about 3 seconds and a link that is silently down within about 15. With
Ray's defaults that takes 14 seconds and, for a task's caller, up to 7 minutes.
"""

FAILURE_DETECTION = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
}
