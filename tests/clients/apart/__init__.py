"""Programs that run in environments of their own, started by test_clients_apart.py."""
