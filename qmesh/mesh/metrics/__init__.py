"""What an agent knows, as metrics: values in, Prometheus' text out.

drops        rules of the guard as the kernel lists them -> dropped packets
snapshot     what the agent knows at one moment
families     snapshot -> metrics, each with its name, kind, help and labels
text_format  metrics -> the text that Prometheus reads
outlets      where they may be served, and what is refused
"""
