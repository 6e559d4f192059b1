"""AMQP 1.0 without I/O: the engine is Apache Qpid Proton's, around it stand SASL and the message codec."""
