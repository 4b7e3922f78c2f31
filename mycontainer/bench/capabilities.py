"""The capabilities in the order of their bits. linux/capability.h; man 7 capabilities."""

from __future__ import annotations

_IN_ORDER = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT
SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP
MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
NAMES = _IN_ORDER.split()


def names(mask: int) -> list[str]:
    """Those whose bits are set; one that is younger than this list is told by its number."""
    bits = [bit for bit in range(mask.bit_length()) if mask >> bit & 1]
    return [NAMES[bit] if bit < len(NAMES) else str(bit) for bit in bits]
