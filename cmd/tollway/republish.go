package main

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/tollway/tollway/services/catalog/outbox"
	"github.com/tollway/tollway/services/platform/kafkaio"
	"github.com/tollway/tollway/services/platform/ledger"
)

func newRepublishCommand() *cobra.Command {
	var flags processFlags
	cmd := &cobra.Command{
		Use:   "republish",
		Short: "Publish the whole catalog again",
		Long: `Has every resource of the catalog published to its topic again, by the catalog
service that runs. It is for a topic of which a part was lost; one that was made
anew, or ends before where it ended, is found and filled without this command.
Readers keep what they have; running it when nothing was lost changes nothing.`,
		Example: "  tollway republish --config tollway.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			cfg, err := flags.load(true)
			if err != nil {
				return err
			}
			client, err := kafkaio.Open(cfg.Kafka.Config, zerolog.Nop())
			if err != nil {
				return err
			}
			defer client.Close()
			db, err := ledger.Open(ctx, cfg.Ledger, zerolog.Nop())
			if err != nil {
				return err
			}
			defer db.Close()
			publisher, err := outbox.New(cfg.Catalog.Outbox, outbox.Deps{
				Ledger: db, Topics: client, Log: zerolog.Nop(), Registerer: prometheus.NewRegistry(),
			})
			if err != nil {
				return err
			}
			n, err := publisher.Resync(ctx)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d resources will be published again.\n", n)
			return nil
		},
	}
	flags.add(cmd)
	return cmd
}
