// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi.read;

import java.util.Map;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.env.EnvironmentPostProcessor;
import org.springframework.core.env.ConfigurableEnvironment;
import org.springframework.core.env.MapPropertySource;

/**
 * Shows the standby in the readiness, with details. It cannot stand in application.yaml: a group that names
 * what does not exist stops the start, and without the read routing the answer stays as it was.
 */
class ReadHealthGroup implements EnvironmentPostProcessor {

    private static final String GROUP = "management.endpoint.health.group.readiness.";

    @Override
    public void postProcessEnvironment(ConfigurableEnvironment environment, SpringApplication application) {
        if (ReadSettings.isOn(environment)) {
            environment
                    .getPropertySources()
                    .addLast(new MapPropertySource(
                            "readHealthGroup",
                            Map.of(
                                    GROUP + "include", "readinessState,readStandby",
                                    GROUP + "show-details", "always")));
        }
    }
}
