"""The real engine, replica service and store on a simulated network, disks and clocks."""
