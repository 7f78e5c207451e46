"""The whole system on one machine: real servers from wheels, UIC and RTP as processes."""
