"""The node's keys whose values are no secret, whatever stands there that looks as it should.

Source: the node's published sources, v1.4.20 to v2.1.0.25.
"""

from __future__ import annotations

from typing import Final

NUMBERS: Final = (
    "allowExcessiveGOMAXPROCS archiveMode autoMergeCoins bootstrapParallelism compress configVersion "
    "connectionTimeoutMs d dataWorkerBaseListenPort dataWorkerBaseP2PPort dataWorkerBaseP2pPort "
    "dataWorkerBaseStreamPort dataWorkerCount dataWorkerMemoryLimit dHi difficulty "
    "directConnectInitialDelay directConnectInitialDelayMs directConnectTicks discoveryParallelism "
    "discoveryPeerLookupLimit dlazy dLazy dLo dOut dScore enableMasterProxy fanoutTTL fanoutTtlMs "
    "framePublish fullProver gossipFactor gossipRetransmission graftFloodThreshold graftFloodThresholdMs "
    "grpcServerRateLimit heartbeatInitialDelay heartbeatInitialDelayMs heartbeatInterval "
    "heartbeatIntervalMs highWatermarkConnections historyGossip historyLength iDontWantMessageThreshold "
    "idontWantMessageThreshold iDontWantMessageTTL idontWantMessageTtl inmemorydonotuse iwantFollowupTime "
    "iwantFollowupTimeMs lowWatermarkConnections maxAge maxBackups maxFrames maxIDontWantMessages "
    "maxIdontWantMessages maxIHaveLength maxIhaveLength maxIhaveMessages maxIHaveMessages "
    "maxPendingConnections maxSize minBootstrapPeers minimumPeersRequired minPeers network "
    "noticePercentage opportunisticGraftPeers opportunisticGraftTicks peerOutboundQueueSize "
    "peerReconnectCheckInterval peerReconnectCheckIntervalMs pendingCommitWorkers pingAttempts pingPeriod "
    "pingPeriodMs pingTimeout pingTimeoutMs pruneBackoff pruneBackoffMs prunePeers rebuildend "
    "rebuildstart slowHeartbeatWarning subscriptionQueueSize syncCandidates syncTimeout syncTimeoutMs "
    "terminatePercentage traceLogStdout unsubscribeBackoff unsubscribeBackoffMs validateQueueSize "
    "validateThrottle validateWorkers warnPercentage "
)
"""Numbers, durations and switches."""

ADDRESSES: Final = (
    "announceListenMultiaddr announceStreamListenMultiaddr dataWorkerAnnounceP2PMultiaddrs "
    "dataWorkerAnnounceP2pMultiaddrs dataWorkerAnnounceStreamMultiaddrs dataWorkerBaseListenMultiaddr "
    "dataWorkerMultiaddrs dataWorkerP2PMultiaddrs dataWorkerP2pMultiaddrs dataWorkerStreamMultiaddrs "
    "listenGrpcMultiaddr listenGRPCMultiaddr listenMultiaddr listenRestMultiaddr listenRESTMultiaddr "
    "statsMultiaddr streamListenMultiaddr "
)
"""An address with a port, or several."""
