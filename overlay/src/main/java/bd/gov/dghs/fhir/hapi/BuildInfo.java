// SPDX-License-Identifier: GPL-3.0-or-later
package bd.gov.dghs.fhir.hapi;

import bd.gov.dghs.fhir.hapi.ig.IgSettings;
import ca.uhn.fhir.util.VersionUtil;
import java.util.LinkedHashMap;
import java.util.Map;
import org.springframework.boot.actuate.info.Info;
import org.springframework.boot.actuate.info.InfoContributor;
import org.springframework.core.env.Environment;
import org.springframework.stereotype.Component;

/**
 * What /actuator/info says. The release comes from the image's environment and not from a file in
 * the jar: a jar that changed with every release would cost each image its CDS archive.
 */
@Component
class BuildInfo implements InfoContributor {

    private final Environment environment;
    private final IgSettings ig;

    BuildInfo(Environment environment, IgSettings ig) {
        this.environment = environment;
        this.ig = ig;
    }

    @Override
    public void contribute(Info.Builder info) {
        Map<String, String> build = new LinkedHashMap<>();
        build.put("version", environment.getProperty("BUILD_VERSION", ""));
        build.put("commit", environment.getProperty("GIT_COMMIT", ""));
        build.put("hapi", VersionUtil.getVersion());
        info.withDetail("build", build);
        ig.guide().ifPresent(guide -> {
            Map<String, String> details = new LinkedHashMap<>();
            details.put("name", guide.name());
            details.put("version", guide.version());
            details.put("canonical", guide.canonical());
            details.put("guide", guide.guideCanonical());
            info.withDetail("ig", details);
        });
    }
}
