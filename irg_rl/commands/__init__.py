"""The roof: one file per `irg-rl` command. Ray reads its environment when it is imported, so `cluster` comes first."""

from irg_rl import cluster as cluster
