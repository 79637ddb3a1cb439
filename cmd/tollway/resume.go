package main

import (
	"fmt"
	"strconv"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/tollway/tollway/pipelines/delivery"
	"github.com/tollway/tollway/services/platform/kafkaio"
)

func newResumeCommand() *cobra.Command {
	var flags processFlags
	var from string
	cmd := &cobra.Command{
		Use:   "resume PARTITION",
		Short: "Let a partition continue whose log was lost or made anew",
		Long: `Let a partition continue that the pipelines have stopped, because committed
offsets were removed from Kafka before they were stored, or because the topic was
made anew. Stop the pipelines first. What the log has lost stays lost; nothing is
counted twice: the partition continues in a new epoch.`,
		Example: "  tollway events resume 3 --from earliest --config tollway.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			partition, err := strconv.ParseUint(args[0], 10, 16)
			if err != nil {
				return usageError("%q is not the number of a partition", args[0])
			}
			at, err := parseFrom(from)
			if err != nil {
				return err
			}
			cfg, err := flags.load(true)
			if err != nil {
				return err
			}
			client, err := kafkaio.Open(cfg.Kafka.Config, zerolog.Nop())
			if err != nil {
				return err
			}
			defer client.Close()
			r, err := delivery.Resume(cmd.Context(), client, cfg.Delivery, int32(partition), at)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Partition %d was at %d; it continues at %d in epoch %d.\n", r.Partition, r.Before, r.From, r.Epoch)
			return nil
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&from, "from", "earliest", "where to continue: earliest, latest or an offset")
	return cmd
}

func parseFrom(text string) (int64, error) {
	switch text {
	case "earliest":
		return delivery.Earliest, nil
	case "latest":
		return delivery.Latest, nil
	}
	at, err := strconv.ParseInt(text, 10, 64)
	if err != nil || at < 0 {
		return 0, usageError("--from is %q, must be earliest, latest or an offset", text)
	}
	return at, nil
}
